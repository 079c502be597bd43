//! A network namespace for one test, without a lab.

use std::{
    ffi::OsStr,
    fs,
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use lb_testkit::output;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, which the thread that made it has moved into. It goes when this value is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace and moves the calling thread into it.
    ///
    /// # Errors
    ///
    /// If there are no privileges for it.
    pub fn enter() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fairlead-test-{}-{number}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let this = Self { name };
        let namespace = fs::File::open(format!("/run/netns/{}", this.name))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the namespace")?;
        Ok(this)
    }

    /// Runs `ip` or `tc` with these words in the namespace, whatever the calling thread's is; returns what it prints.
    ///
    /// # Errors
    ///
    /// If it ends with an error, with what it said.
    pub fn run(&self, program: &str, words: &str) -> Result<String> {
        let words = words.split(' ').map(OsStr::new);
        Ok(output(
            Command::new(program).args(["-n", &self.name]).args(words),
        )?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of it shows in `ip netns`.
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
