use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use super::*;
use crate::watch::{Object, reader::MOST_QUIET};

/// Longer than anything takes here, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn describe(event: &Event) -> String {
    let object = |object: &Object| {
        let Object::Service(service) = object else {
            return object.key().to_string();
        };
        let ip = service.cluster_ips[0];
        format!("{} {ip}", object.name().name)
    };
    match event {
        Event::Init(kind) => format!("init {kind}"),
        Event::InitApply(o) => format!("init {}", object(o)),
        Event::InitDone(kind) => format!("done {kind}"),
        Event::Apply(o) => format!("apply {}", object(o)),
        Event::Delete(o) => format!("delete {}", object(o)),
    }
}

/// A folder of manifests that is followed.
struct Fixture {
    root: tempfile::TempDir,
    manifests: Manifests,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    /// Follows `root/m`, which holds svc.yaml with service a; the first list is read off.
    fn new() -> Self {
        Self::with(|folder| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("svc.yaml"), service("a", "10.0.0.1")).unwrap();
        })
    }

    fn with(fill: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        fill(&root.path().join("m"));
        let manifests = Manifests::start(root.path().join("m")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut fixture = Self {
            root,
            manifests,
            runtime,
        };
        assert_eq!(
            fixture.take(9),
            [
                "init Service",
                "init a 10.0.0.1",
                "done Service",
                "init EndpointSlice",
                "done EndpointSlice",
                "init Node",
                "done Node",
                "init ServiceCIDR",
                "done ServiceCIDR"
            ]
        );
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("m").join(name)
    }

    fn take(&mut self, n: usize) -> Vec<String> {
        (0..n)
            .map(|_| self.next().unwrap_or_else(|| panic!("no event in {PATIENCE:?}")))
            .collect()
    }

    fn next(&mut self) -> Option<String> {
        let next = async { tokio::time::timeout(PATIENCE, self.manifests.next()).await };
        self.runtime
            .block_on(next)
            .ok()
            .map(|event| describe(&event.expect("the source lives")))
    }

    /// Nothing more is told: what follows next is the event of a file that is written now.
    fn assert_nothing_before_marker(&mut self) {
        fs::write(self.path("zz-marker.yaml"), service("marker", "10.9.9.9")).unwrap();
        assert_eq!(self.take(1), ["apply marker 10.9.9.9"]);
        fs::remove_file(self.path("zz-marker.yaml")).unwrap();
        assert_eq!(
            self.take(1),
            ["delete marker"].map(|text| format!("{text} 10.9.9.9"))
        );
    }
}

#[test]
fn a_missing_folder_and_an_unreadable_file_are_errors_that_name_them() {
    let root = tempfile::tempdir().unwrap();
    let error = Manifests::start(root.path().join("none")).unwrap_err();
    assert!(matches!(error, ManifestsError::Folder { .. }));
    assert!(
        error.to_string().contains("none: No such file or directory"),
        "{error}"
    );
    fs::create_dir(root.path().join("m")).unwrap();
    fs::write(root.path().join("m/bad.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let error = Manifests::start(root.path().join("m")).unwrap_err();
    assert!(matches!(error, ManifestsError::File { .. }));
    assert!(
        error.to_string().contains("bad.yaml: byte 0 is no UTF-8"),
        "{error}"
    );
    let error = Manifests::start(root.path().join("m/bad.yaml")).unwrap_err();
    assert!(matches!(error, ManifestsError::Folder { .. }));
}

#[test]
fn a_file_written_in_place_is_followed() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path("svc.yaml"), service("a", "10.0.0.2")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
}

#[test]
fn a_change_is_told_well_within_100_ms() {
    let mut fixture = Fixture::new();
    let mut best = Duration::MAX;
    for i in 0..5 {
        let begin = Instant::now();
        fs::write(fixture.path("svc.yaml"), service("a", &format!("10.0.1.{i}"))).unwrap();
        assert_eq!(fixture.take(1), [format!("apply a 10.0.1.{i}")]);
        best = best.min(begin.elapsed());
    }
    assert!(
        best < Duration::from_millis(50),
        "the fastest of five took {best:?}"
    );
}

#[test]
fn a_file_that_is_being_written_is_not_read_before_its_writer_is_done() {
    use std::io::Write;
    let mut fixture = Fixture::new();
    let mut file = fs::File::create(fixture.path("svc.yaml")).unwrap();
    file.write_all(service("b", "10.0.0.2").as_bytes()).unwrap();
    file.flush().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(fixture.manifests.try_next().is_none(), "the file is still open");
    file.write_all(service("a", "10.0.0.1").as_bytes()).unwrap();
    drop(file);
    assert_eq!(fixture.take(1), ["apply b 10.0.0.2"]);
    fixture.assert_nothing_before_marker();
}

#[test]
fn a_file_replaced_by_rename_is_followed() {
    let mut fixture = Fixture::new();
    let temporary = fixture.path(".svc.yaml.tmp");
    fs::write(&temporary, service("a", "10.0.0.2")).unwrap();
    fs::rename(&temporary, fixture.path("svc.yaml")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
}

#[test]
fn an_editor_that_renames_the_old_file_away_first_deletes_nothing() {
    let mut fixture = Fixture::new();
    fs::rename(fixture.path("svc.yaml"), fixture.path("svc.yaml~")).unwrap();
    fs::write(fixture.path("svc.yaml"), service("a", "10.0.0.2")).unwrap();
    fs::remove_file(fixture.path("svc.yaml~")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
    fixture.assert_nothing_before_marker();
}

#[test]
fn files_that_come_and_go_are_followed() {
    let mut fixture = Fixture::new();
    let outside = fixture.root.path().join("other.yaml");
    fs::write(&outside, service("b", "10.0.0.2")).unwrap();
    fs::rename(&outside, fixture.path("other.yaml")).unwrap();
    assert_eq!(fixture.take(1), ["apply b 10.0.0.2"]);
    fs::remove_file(fixture.path("svc.yaml")).unwrap();
    assert_eq!(fixture.take(1), ["delete a 10.0.0.1"]);
    fs::rename(fixture.path("other.yaml"), &outside).unwrap();
    assert_eq!(fixture.take(1), ["delete b 10.0.0.2"]);
    fs::hard_link(&outside, fixture.path("linked.yml")).unwrap();
    assert_eq!(fixture.take(1), ["apply b 10.0.0.2"]);
    symlink(&outside, fixture.path("a-soft.json")).unwrap();
    fixture.assert_nothing_before_marker();
}

#[test]
fn a_config_map_volume_is_followed() {
    let version = |root: &Path, name: &str, ip: &str| {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("svc.yaml"), service("a", ip)).unwrap();
    };
    let mut fixture = Fixture::with(|folder| {
        fs::create_dir(folder).unwrap();
        version(folder, "..one", "10.0.0.1");
        symlink("..one", folder.join("..data")).unwrap();
        symlink("..data/svc.yaml", folder.join("svc.yaml")).unwrap();
    });
    for (i, ip) in ["10.0.0.2", "10.0.0.3"].into_iter().enumerate() {
        let name = format!("..v{i}");
        version(&fixture.path(""), &name, ip);
        symlink(&name, fixture.path("..data_tmp")).unwrap();
        fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
        assert_eq!(fixture.take(1), [format!("apply a {ip}")]);
    }
}

#[test]
fn a_folder_that_is_replaced_as_a_whole_is_followed() {
    let mut fixture = Fixture::new();
    let (folder, new) = (fixture.path(""), fixture.root.path().join("new"));
    let folder = folder.parent().unwrap().join("m");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("svc.yaml"), service("a", "10.0.0.2")).unwrap();
    fs::rename(&folder, fixture.root.path().join("old")).unwrap();
    fs::rename(&new, &folder).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
    fs::write(folder.join("svc.yaml"), service("a", "10.0.0.3")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.3"]);
}

#[test]
fn a_folder_behind_a_link_is_followed_when_the_link_is_swapped() {
    let mut fixture = Fixture::with(|folder| {
        let root = folder.parent().unwrap();
        for (name, ip) in [("one", "10.0.0.1"), ("two", "10.0.0.2")] {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("svc.yaml"), service("a", ip)).unwrap();
        }
        symlink("one", folder).unwrap();
    });
    let root = fixture.root.path().to_owned();
    symlink("two", root.join("m.tmp")).unwrap();
    fs::rename(root.join("m.tmp"), root.join("m")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
}

#[test]
fn what_a_folder_held_stays_in_force_while_it_is_gone_or_empty() {
    let mut fixture = Fixture::new();
    let folder = fixture.root.path().join("m");
    fs::rename(&folder, fixture.root.path().join("away")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    fs::create_dir(&folder).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(fixture.manifests.try_next().is_none());
    fs::write(folder.join("new.yaml"), service("a", "10.0.0.2")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
    fs::write(folder.join("new.yaml"), service("a", "10.0.0.3")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.3"]);
}

#[test]
fn a_broken_file_changes_nothing_until_it_is_mended() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path("svc.yaml"), "kind: [").unwrap();
    fixture.assert_nothing_before_marker();
    fs::write(fixture.path("svc.yaml"), service("a", "10.0.0.2")).unwrap();
    assert_eq!(fixture.take(1), ["apply a 10.0.0.2"]);
}

#[test]
fn hidden_files_other_names_and_subfolders_do_not_count() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path(".hidden.yaml"), service("b", "10.0.0.2")).unwrap();
    fs::write(fixture.path("notes.txt"), service("b", "10.0.0.2")).unwrap();
    fs::create_dir(fixture.path("sub.yaml")).unwrap();
    fs::write(fixture.path("sub.yaml/svc.yaml"), service("b", "10.0.0.2")).unwrap();
    symlink("nowhere", fixture.path("dangling.yaml")).unwrap();
    fixture.assert_nothing_before_marker();
}

#[test]
fn what_one_change_of_a_file_leads_to_arrives_together() {
    let mut fixture = Fixture::new();
    fs::write(
        fixture.path("svc.yaml"),
        service("b", "10.0.0.1") + &service("c", "10.0.0.2"),
    )
    .unwrap();
    assert_eq!(fixture.take(1), ["delete a 10.0.0.1"]);
    let rest: Vec<String> = std::iter::from_fn(|| fixture.manifests.try_next())
        .map(|event| describe(&event))
        .collect();
    assert_eq!(rest, ["apply b 10.0.0.1", "apply c 10.0.0.2"]);
}

#[test]
fn dropping_the_source_ends_its_thread_although_nobody_reads_its_events() {
    let fixture = Fixture::new();
    for i in 0..2 * QUEUE_CHANGES {
        fs::write(fixture.path("svc.yaml"), service("a", &format!("10.0.1.{i}"))).unwrap();
        std::thread::sleep(2 * MOST_QUIET);
    }
    drop(fixture);
}
