//! The order of the search and the reading of versions, on machines made of maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use crate::{
    CompilerVersion, Endian, Error, LINKER_VARIABLE, Machine, Origin, RUSTC_VARIABLE, Release, bpf_arch,
    compile::{keeps_variable, rustflags, warnings},
    find, find_compilers, linker_llvm,
};

const DEBIAN: &str = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

const NIGHTLY_BIN: &str = "/home/dev/.rustup/toolchains/nightly-x86_64-unknown-linux-gnu/bin";
const CARGO_BIN: &str = "/home/dev/.cargo/bin";

/// A machine made of maps.
#[derive(Default)]
struct Fake {
    variables: BTreeMap<&'static str, OsString>,
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// What a program prints when its arguments begin with a word.
    outputs: BTreeMap<(PathBuf, &'static str), String>,
}

impl Fake {
    fn new() -> Self {
        let mut fake = Self::default();
        fake.variables.insert("HOME", "/home/dev".into());
        fake.variables
            .insert("PATH", format!("{CARGO_BIN}:/usr/local/bin:/usr/bin:bin").into());
        fake
    }

    /// A compiler in `bin`; with `source`, the source of core lies in its sysroot.
    fn compiler(mut self, bin: &str, release: &str, llvm: &str, source: bool) -> Self {
        let bin = Path::new(bin);
        let sysroot = bin.parent().expect("a folder above bin");
        let version = DEBIAN.replace("release: 1.96.0", &format!("release: {release}"));
        let version = version.replace("22.1.8", llvm);
        self.outputs.insert((bin.join("rustc"), "-vV"), version);
        self.outputs
            .insert((bin.join("rustc"), "--print"), format!("{}\n", sysroot.display()));
        self.files.extend([bin.join("rustc"), bin.join("cargo")]);
        if source {
            self.folders
                .insert(sysroot.join("lib/rustlib/src/rust/library/core"));
        }
        self
    }

    fn linker(mut self, bin: &str, llvm: &str) -> Self {
        let path = Path::new(bin).join("bpf-linker");
        let text = format!("Debian LLVM version {llvm}\n  Optimized build.\n");
        self.outputs.insert((path.clone(), "--llvm-args=--version"), text);
        self.files.insert(path);
        self
    }

    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }
}

impl Machine for Fake {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.folders.contains(path)
    }

    fn entries(&self, path: &Path) -> Vec<String> {
        let below = self.files.iter().filter_map(|file| file.strip_prefix(path).ok());
        let names: BTreeSet<String> = below
            .filter_map(|rest| Some(rest.iter().next()?.to_str()?.to_owned()))
            .collect();
        names.into_iter().collect()
    }

    fn output(&self, program: &Path, arguments: &[&str]) -> io::Result<String> {
        let key = self
            .outputs
            .keys()
            .find(|(path, word)| path == program && arguments.first() == Some(word));
        key.map(|key| self.outputs[key].clone())
            .ok_or_else(|| io::Error::other("no such program"))
    }
}

#[test]
fn release_is_read_from_numbers_alone() {
    let release = |major, minor, patch| Some(Release { major, minor, patch });
    assert_eq!(Release::parse("22.1.8"), release(22, 1, 8));
    assert_eq!(Release::parse("1.97.0-nightly"), release(1, 97, 0));
    assert_eq!(Release::parse("22.1.0git"), release(22, 1, 0));
    assert_eq!(Release::parse("23"), release(23, 0, 0));
    assert_eq!(Release::parse("git"), None);
    assert_eq!(Release::parse(""), None);
    assert!(Release::parse("1.96.0") > Release::parse("1.95.9"));
}

#[test]
fn compiler_version_is_read_from_its_own_words() {
    let version = CompilerVersion::parse(DEBIAN).expect("complete output");
    assert_eq!(
        version.release,
        Release {
            major: 1,
            minor: 96,
            patch: 0
        }
    );
    assert_eq!(
        version.llvm,
        Release {
            major: 22,
            minor: 1,
            patch: 8
        }
    );
    assert_eq!(version.host, "x86_64-unknown-linux-gnu");
}

#[test]
fn compiler_without_llvm_is_not_understood() {
    let cranelift: String = DEBIAN.lines().filter(|line| !line.starts_with("LLVM")).collect();
    assert_eq!(CompilerVersion::parse(&cranelift), None);
    assert_eq!(CompilerVersion::parse(""), None);
}

#[test]
fn linker_version_is_read_with_and_without_the_distribution_in_front() {
    let release = Some(Release {
        major: 22,
        minor: 1,
        patch: 8,
    });
    assert_eq!(
        linker_llvm("Debian LLVM version 22.1.8\n  Optimized build.\n"),
        release
    );
    assert_eq!(
        linker_llvm("LLVM (http://llvm.org/):\n  LLVM version 22.1.8\n"),
        release
    );
    assert_eq!(linker_llvm("bpf-linker 0.13.0\n"), None);
}

#[test]
fn nightly_with_source_comes_before_the_distribution() {
    let machine = Fake::new()
        .compiler(NIGHTLY_BIN, "1.97.0-nightly", "22.1.4", true)
        .compiler("/usr/bin", "1.96.0", "22.1.8", true);
    let origins: Vec<Origin> = find_compilers(&machine)
        .expect("two")
        .iter()
        .map(|found| found.origin)
        .collect();
    assert_eq!(origins, [Origin::RustupNightly, Origin::Distribution]);
}

#[test]
fn nightly_without_source_is_passed_over() {
    let machine = Fake::new()
        .compiler(NIGHTLY_BIN, "1.97.0-nightly", "22.1.4", false)
        .compiler("/usr/bin", "1.96.0", "22.1.8", true);
    let found = find_compilers(&machine).expect("the distribution's");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].rustc, Path::new("/usr/bin/rustc"));
    assert_eq!(found[0].cargo, Path::new("/usr/bin/cargo"));
}

#[test]
fn nightly_of_a_day_is_not_the_channel() {
    let pinned = "/home/dev/.rustup/toolchains/nightly-2026-05-20-x86_64-unknown-linux-gnu/bin";
    let machine = Fake::new().compiler(pinned, "1.97.0-nightly", "22.1.4", true);
    let error = find_compilers(&machine).expect_err("none");
    assert!(error.is_missing_toolchain(), "{error}");
}

#[test]
fn compiler_older_than_the_workspace_supports_is_passed_over() {
    let machine = Fake::new().compiler("/usr/bin", "1.63.0", "14.0.6", true);
    let error = find_compilers(&machine).expect_err("too old").to_string();
    assert!(error.contains("1.63.0, needed is"), "{error}");
}

#[test]
fn missing_compiler_names_every_candidate() {
    let machine = Fake::new().compiler(NIGHTLY_BIN, "1.97.0-nightly", "22.1.4", false);
    let error = find_compilers(&machine).expect_err("none").to_string();
    assert!(
        error.contains("rustup nightly: ") && error.contains("has no source of core"),
        "{error}"
    );
    assert!(error.contains("/usr/bin/rustc does not exist"), "{error}");
}

#[test]
fn override_comes_before_all_others() {
    let machine = Fake::new()
        .compiler(NIGHTLY_BIN, "1.97.0-nightly", "22.1.4", true)
        .compiler("/opt/rust/bin", "1.98.0", "22.1.8", true)
        .variable(RUSTC_VARIABLE, "/opt/rust/bin/rustc");
    let found = find_compilers(&machine).expect("the override");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].origin, Origin::Override);
    assert_eq!(found[0].cargo, Path::new("/opt/rust/bin/cargo"));
}

#[test]
fn override_that_cannot_be_used_is_an_error_not_a_fallback() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .variable(RUSTC_VARIABLE, "/opt/rust/bin/rustc");
    let error = find_compilers(&machine).expect_err("not there");
    assert!(
        matches!(
            error,
            Error::Override {
                variable: RUSTC_VARIABLE,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_missing_toolchain());
}

#[test]
fn linker_older_than_the_compiler_is_passed_over_for_a_newer_one_on_path() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "21.1.0")
        .linker("/usr/local/bin", "23.1.0");
    let toolchain = find(&machine).expect("a pair");
    assert_eq!(toolchain.linker.path, Path::new("/usr/local/bin/bpf-linker"));
    assert_eq!(toolchain.linker.llvm.major, 23);
}

#[test]
fn linker_may_have_another_patch_release_of_the_same_llvm() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "22.1.2");
    assert!(find(&machine).is_ok());
}

#[test]
fn compiler_without_a_linker_gives_way_to_the_next() {
    let machine = Fake::new()
        .compiler(NIGHTLY_BIN, "1.99.0-nightly", "23.1.0", true)
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "22.1.8");
    assert_eq!(
        find(&machine).expect("a pair").compiler.origin,
        Origin::Distribution
    );
}

#[test]
fn missing_linker_tells_the_llvm_that_the_best_compiler_needs() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "20.1.0");
    let error = find(&machine).expect_err("too old");
    assert!(error.is_missing_toolchain());
    let text = error.to_string();
    assert!(
        text.contains("LLVM 22 or newer") && text.contains("runs on LLVM 20.1.0"),
        "{text}"
    );
}

#[test]
fn linker_override_that_does_not_exist_is_an_error() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "22.1.8")
        .variable(LINKER_VARIABLE, "/opt/bpf-linker");
    let error = find(&machine).expect_err("not there");
    assert!(
        matches!(
            error,
            Error::Override {
                variable: LINKER_VARIABLE,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn environment_of_an_outer_cargo_does_not_reach_the_inner_one() {
    let outer = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PROFILE_RELEASE_LTO",
        "CARGO_TARGET_DIR",
        "DEP_Z_INCLUDE",
        "LD_LIBRARY_PATH",
        "OUT_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    for name in outer {
        assert!(!keeps_variable(name), "{name}");
    }
    for name in [
        "HOME",
        "PATH",
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_OFFLINE",
        "https_proxy",
    ] {
        assert!(keeps_variable(name), "{name}");
    }
}

#[test]
fn flags_name_linker_processor_and_architecture() {
    let machine = Fake::new()
        .compiler("/usr/bin", "1.96.0", "22.1.8", true)
        .linker(CARGO_BIN, "22.1.8");
    let toolchain = find(&machine).expect("a pair");
    let flags = |arch| rustflags(&toolchain, arch).into_string().expect("UTF-8");
    let x86 = flags("x86_64");
    let words: Vec<&str> = x86.split('\x1f').collect();
    assert!(words.contains(&"--cfg=bpf_target_arch=\"x86_64\""), "{words:?}");
    assert!(
        words.contains(&"-Clinker=/home/dev/.cargo/bin/bpf-linker"),
        "{words:?}"
    );
    assert!(words.contains(&"-Ctarget-cpu=v3"), "{words:?}");
    assert!(
        !x86.contains("misaligned"),
        "the verifier refuses misaligned words on the stack"
    );
    assert_eq!(bpf_arch("riscv64gc"), "riscv64");
}

#[test]
fn target_follows_byte_order() {
    assert_eq!(Endian::Little.target(), "bpfel-unknown-none");
    assert_eq!(Endian::Big.target(), "bpfeb-unknown-none");
}

#[test]
fn warnings_are_kept_without_their_count() {
    let stderr = "\
   Compiling lb-ebpf v0.1.0 (/src/lb-ebpf)
warning: unused variable: `v`
  --> lb-ebpf/src/main.rs:13:9
   |
13 |     let v = 1;
   |         ^

warning: `lb-ebpf` (bin \"fairlead-ebpf\") generated 2 warnings
    Finished `release` profile [optimized + debuginfo] target(s) in 2.33s
";
    let kept = warnings(stderr);
    assert_eq!(kept.len(), 1);
    assert!(
        kept[0].starts_with("warning: unused variable: `v`\n  --> lb-ebpf/src/main.rs"),
        "{}",
        kept[0]
    );
}
