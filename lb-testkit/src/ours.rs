//! The labs of this process: one at a time, and none left when a signal ends it.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cgroup,
    error::{Error, Result},
    stale,
};

/// One lab at a time in a process: the process itself moves into the lab's cgroup.
static ONE_LAB: Mutex<()> = Mutex::new(());
/// Labs of this process with the cgroup to go back to, for the signal handler.
static ALIVE: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());
/// Held while a lab is made or taken apart: what is made after a signal's look around would stay.
static CHANGING: Mutex<()> = Mutex::new(());
/// A signal has come: a lab that is being built is given up.
static STOPPING: AtomicBool = AtomicBool::new(false);
static SIGNALS: Once = Once::new();

thread_local! {
    /// Whether this thread holds [`ONE_LAB`].
    static HAS_LAB: Cell<bool> = const { Cell::new(false) };
}

/// The right to have a lab.
///
/// It cannot go to another thread, because the guard cannot; so the thread that took it is the one that has it.
#[derive(Debug)]
pub(crate) struct Turn {
    _guard: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits until no other thread has a lab.
    ///
    /// # Errors
    ///
    /// [`Error::SecondLab`] if this thread has one: it would wait for itself.
    pub(crate) fn take() -> Result<Self> {
        if HAS_LAB.get() {
            return Err(Error::SecondLab);
        }
        let guard = lock(&ONE_LAB);
        HAS_LAB.set(true);
        Ok(Self { _guard: guard })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HAS_LAB.set(false);
    }
}

/// What a panic left locked is as good as before: these hold no data that could be half done.
fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, no signal ends the process. What takes long asks [`go_on`] at times.
pub(crate) fn changing() -> MutexGuard<'static, ()> {
    clean_up_on_signals();
    lock(&CHANGING)
}

/// An error if a signal waits to end the process.
pub(crate) fn go_on() -> Result<()> {
    if STOPPING.load(Ordering::SeqCst) {
        return Err(Error::Stopped);
    }
    Ok(())
}

/// Notes a lab that is about to be made, and the cgroup that this process comes from.
pub(crate) fn note(id: &str, home: &Path) {
    lock(&ALIVE).push((id.to_owned(), home.to_owned()));
}

/// Takes a lab down.
pub(crate) fn take_down(id: &str, home: &Path) {
    let _changing = lock(&CHANGING);
    lock(&ALIVE).retain(|(other, _)| other != id);
    remove(id, home);
}

fn remove(id: &str, home: &Path) {
    // Without it the lab's cgroup cannot be removed, which the next sweep makes good.
    let _ = cgroup::enter(home);
    stale::tear_down(id);
}

/// A signal that ends the process takes the labs down first.
fn clean_up_on_signals() {
    SIGNALS.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
            eprintln!("lab: signals cannot be caught; a lab that is interrupted is removed by the next one");
            return;
        };
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                STOPPING.store(true, Ordering::SeqCst);
                // Held to the end of the process: nothing is made any more.
                let _changing = lock(&CHANGING);
                for (id, home) in lock(&ALIVE).drain(..) {
                    remove(&id, &home);
                }
                process::exit(128 + signal);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn a_second_turn_fails_on_the_same_thread_and_waits_on_another() {
        let turn = Turn::take().unwrap();
        assert!(matches!(Turn::take(), Err(Error::SecondLab)));
        let (sender, receiver) = mpsc::channel();
        let other = thread::spawn(move || {
            let turn = Turn::take();
            sender.send(turn.is_ok()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(turn);
        assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
        other.join().unwrap();
        drop(Turn::take().unwrap());
    }
}
