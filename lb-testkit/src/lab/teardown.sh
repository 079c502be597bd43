# Removes what is left of one lab: processes, namespaces, mounts, cgroups, the run folder, in that order. The run
# folder goes last, so that a lab that was removed in part is found again. Run twice at a time, the second waits.
# Arguments: ID CGROUP RUN. Prints what could not be removed and then fails.
id=$1 cgroup=$2 run=$3
[ -d "$run" ] || exit 0
exec 9<"$run" || exit 0
flock 9
[ -d "$run" ] || exit 0
owner=
[ -r "$run/owner" ] && read -r owner _ <"$run/owner"

# Pids of the lab's cgroups and of its namespaces. The owner itself stays: it may have entered one of them.
pids() {
    {
        [ -d "$cgroup" ] && find "$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null
        set -- /run/netns/fl"$id"-*
        if [ -e "$1" ]; then
            spaces=" $(stat -L -c %i "$@" 2>/dev/null | tr '\n' ' ')"
            stat -L -c '%i %n' /proc/[0-9]*/ns/net 2>/dev/null | while read -r inode path; do
                pid=${path#/proc/}
                case $spaces in *" $inode "*) echo "${pid%%/*}" ;; esac
            done
        fi
    } | sort -u | grep -vx -e "$$" -e "${owner:-0}" -e 0
}

# Sends SIGKILL until nobody is left: a process may fork while its parent is being killed.
tries=0
while left=$(pids) && [ $tries -lt 100 ]; do
    kill -9 $left 2>/dev/null
    tries=$((tries + 1))
    sleep 0.02
done

for space in /run/netns/fl"$id"-*; do
    [ -e "$space" ] && echo "netns del ${space##*/}"
done | ip -force -batch -

cut -d ' ' -f 2 /proc/self/mounts | grep "^$run/" | sort -r | while read -r mount; do
    umount -l "$mount"
done

tries=0
while [ -d "$cgroup" ] && [ $tries -lt 100 ]; do
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$cgroup" ] && sleep 0.02
    tries=$((tries + 1))
done

failed=0
for left in $(pids); do
    echo "process $left of lab $id does not end" >&2
    failed=1
done
for left in /run/netns/fl"$id"-* "$cgroup"; do
    [ -e "$left" ] || continue
    echo "$left of lab $id cannot be removed" >&2
    failed=1
done
[ $failed -eq 0 ] && rm -rf --one-file-system "$run" && [ ! -e "$run" ]
