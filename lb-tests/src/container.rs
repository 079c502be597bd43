//! The image in a container of runc, with what the DaemonSet in `deploy/base` gives it: its arguments, capabilities, mounts and
//! read-only root. So the manifest and what was tried cannot drift apart.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container as Template, PodSpec, VolumeMount};
use lb_image::{About, architecture, build};
use lb_testkit::{Host, Lab, Process, output};
use serde_json::{Value, json};

use crate::{agent, deploy};

/// How long an agent may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);

/// The static agent: the one that `FAIRLEAD_STATIC_BIN` names, else the one that `cargo xtask image --debug` leaves.
///
/// # Errors
///
/// If there is none, with the remedy.
pub fn static_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("FAIRLEAD_STATIC_BIN") {
        return Ok(path.into());
    }
    let agent = agent::binary()?;
    let path = agent
        .ancestors()
        .nth(2)
        .map(|target| target.join("image/fairlead-debug"));
    let path = path.context("the agent lies in a target folder")?;
    ensure!(
        path.exists(),
        "{} does not exist; run `cargo xtask image --debug` first, or use `cargo xtask test`",
        path.display()
    );
    Ok(path)
}

/// The image, unpacked, with the pod that runs it.
#[derive(Debug)]
pub struct Image {
    root: PathBuf,
    pod: PodSpec,
    config: PathBuf,
    variables: Vec<String>,
}

impl Image {
    /// Builds the image and unpacks it into the lab's folder.
    ///
    /// # Errors
    ///
    /// If it cannot be built, or the manifest is another one than the tests know.
    pub fn new(lab: &Lab) -> Result<Self> {
        let about = About {
            name: "localhost/fairlead:test".to_owned(),
            version: "0".to_owned(),
            revision: None,
            architecture: architecture().to_owned(),
        };
        let image = build(&static_binary()?, &about)?;
        let folder = lab.folder().join("image");
        let root = folder.join("root");
        fs::create_dir_all(&root)?;
        let layer = folder.join("layer.tar.gz");
        fs::write(&layer, &image.layer().bytes)?;
        output(
            Command::new("tar")
                .arg("--extract")
                .arg("--file")
                .arg(&layer)
                .arg("--directory")
                .arg(&root),
        )?;
        let objects = deploy::render(&deploy::folder("base"))?;
        let config = folder.join("config");
        fs::create_dir_all(&config)?;
        let map = deploy::find(&objects, "ConfigMap").context("a ConfigMap")?;
        for (name, text) in map["data"].as_object().context("data")? {
            fs::write(config.join(name), text.as_str().context("text")?)?;
        }
        let pod = deploy::daemon_set("base")?
            .spec
            .and_then(|spec| spec.template.spec);
        Ok(Self {
            root,
            pod: pod.context("a pod")?,
            config,
            variables: Vec::new(),
        })
    }

    /// Sets a variable that containers get besides those of the manifest, as kubelet gives some to all.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push(format!("{name}={value}"));
        self
    }

    /// The capabilities that the manifest gives, as the kernel names them.
    ///
    /// # Errors
    ///
    /// If it gives none.
    pub fn capabilities(&self) -> Result<Vec<String>> {
        let security = self.template()?.security_context.as_ref();
        let capabilities = security.and_then(|security| security.capabilities.as_ref());
        let added = capabilities.and_then(|capabilities| capabilities.add.as_ref());
        let added = added.context("capabilities")?;
        Ok(added.iter().map(|name| format!("CAP_{name}")).collect())
    }

    fn template(&self) -> Result<&Template> {
        self.pod.containers.first().context("a container")
    }

    /// Starts a container in the network namespace of a node, with these capabilities, further arguments, and further
    /// folders to see (from where, to where), read-only.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(
        &self,
        lab: &Lab,
        node: usize,
        capabilities: &[String],
        more: &[&str],
        folders: &[(&Path, &str)],
    ) -> Result<Container> {
        let host = lab.node(node);
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        ];
        for mount in self.template()?.volume_mounts.iter().flatten() {
            let source = self.source(lab, mount)?;
            mounts.push(bind(&source, &mount.mount_path, mount.read_only.unwrap_or(false)));
        }
        mounts.extend(folders.iter().map(|(from, to)| bind(from, to, true)));
        let spec = self.spec(host, capabilities, more, &mounts)?;
        Container::run(lab, host, &spec)
    }

    /// What a volume is in the lab.
    fn source(&self, lab: &Lab, mount: &VolumeMount) -> Result<PathBuf> {
        let mut volumes = self.pod.volumes.iter().flatten();
        let volume = volumes
            .find(|volume| volume.name == mount.name)
            .context("a volume")?;
        if volume.config_map.is_some() {
            return Ok(self.config.clone());
        }
        let host = volume.host_path.as_ref().context("a folder of the host")?;
        Ok(match host.path.as_str() {
            "/sys/fs/bpf" => lab.folder().join("bpf"),
            "/sys/fs/cgroup" => lab.cgroup().to_owned(),
            other => bail!("{other} is nothing that the lab has"),
        })
    }

    fn spec(&self, host: &Host, capabilities: &[String], more: &[&str], mounts: &[Value]) -> Result<Value> {
        ensure!(self.pod.host_network == Some(true));
        let template = self.template()?;
        let security = template.security_context.as_ref().context("a security context")?;
        let words = template
            .command
            .iter()
            .chain(&template.args)
            .flatten()
            .map(String::as_str);
        let arguments: Vec<&str> = words.chain(more.iter().copied()).collect();
        let user = security.run_as_user.unwrap_or(0);
        let mut variables = vec![format!("NODE_NAME={}", host.name)];
        variables.extend(self.variables.iter().cloned());
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": user},
                "cwd": "/",
                "args": arguments,
                "env": variables,
                "noNewPrivileges": security.allow_privilege_escalation == Some(false),
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": self.root, "readonly": security.read_only_root_filesystem},
            "mounts": mounts,
            "linux": {"namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": host.netns_path()},
            ]},
        }))
    }
}

fn bind(from: &Path, to: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", access]})
}

/// A container that runs. It goes with this value.
#[derive(Debug)]
pub struct Container {
    process: Process,
    state: PathBuf,
    id: String,
}

impl Container {
    fn run(lab: &Lab, host: &Host, spec: &Value) -> Result<Self> {
        // Its name is that of the lab's folder, so that several labs can have one.
        let lab_name = lab.folder().file_name().unwrap_or_default().to_string_lossy();
        let id = format!("{lab_name}-{}", host.name);
        let bundle = lab.folder().join(&id);
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), serde_json::to_vec(spec)?)?;
        let state = lab.folder().join("runc");
        let mut command = host.command("runc");
        command
            .arg("--root")
            .arg(&state)
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg(&id);
        Ok(Self {
            process: host.spawn("image", &mut command)?,
            state,
            id,
        })
    }

    /// Waits until the agent has said something.
    ///
    /// # Errors
    ///
    /// If it ends before or takes too long, with its log.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        Ok(self.process.wait_for(text, PATIENCE)?)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it has ended by itself; whether it succeeded, and its log.
    ///
    /// # Errors
    ///
    /// If it goes on.
    pub fn end(&mut self) -> Result<(bool, String)> {
        let status = self.process.wait(PATIENCE)?;
        Ok((status.success(), self.process.log()))
    }

    /// Runs a program in the container, with the container's capabilities, as `kubectl exec` does; what it prints.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state);
        Ok(output(command.args(["exec", &self.id]).args(words))?)
    }

    /// What the kernel says of the agent's process: `/proc/PID/status`.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn status(&self) -> Result<String> {
        let state = output(
            Command::new("runc")
                .arg("--root")
                .arg(&self.state)
                .args(["state", &self.id]),
        )?;
        let state: Value = serde_json::from_str(&state)?;
        Ok(fs::read_to_string(format!("/proc/{}/status", state["pid"]))?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Killing `runc run` alone would leave the container. There is nothing to do about an error.
        let mut delete = Command::new("runc");
        delete
            .arg("--root")
            .arg(&self.state)
            .args(["delete", "--force", &self.id]);
        let _ = delete.output();
    }
}
