//! The manifests in `deploy/`: of the types of the API, and in keeping with what the agent does and understands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use lb_tests::deploy::{Right, check, daemon_set, find, folder, render, role};
use lb_userspace::{
    cli::{
        self,
        args::{Cli, Command as Subcommand, RunArgs},
        config::Config,
        environment::Environment,
        file,
    },
    watch::Kind,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Everything that `kubectl apply -k` is given.
const FOLDERS: [&str; 3] = ["base", "overlays/kind", "overlays/replace-kube-proxy"];

/// The same with the component that mounts a bpffs, which only one of them has.
const MOUNTING: &str = "overlays/kind";

fn pod(folder: &str) -> Result<PodSpec> {
    let spec = daemon_set(folder)?.spec.context("a spec")?;
    spec.template.spec.context("a pod")
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.containers.iter().chain(pod.init_containers.iter().flatten())
}

/// The agent's container.
fn agent(pod: &PodSpec) -> Result<&Container> {
    pod.containers
        .iter()
        .find(|container| container.name == "fairlead")
        .context("the agent")
}

/// The arguments of a container, as the agent understands them.
fn arguments(container: &Container) -> Result<RunArgs> {
    ensure!(
        container.command == Some(vec!["/fairlead".to_owned()]),
        "{:?}",
        container.command
    );
    let arguments = container.args.iter().flatten().map(String::as_str);
    match Cli::try_parse_from(["fairlead"].into_iter().chain(arguments))?.command {
        Subcommand::Run(run) => Ok(*run),
        other => anyhow::bail!("{other:?}"),
    }
}

#[test]
fn every_object_is_of_a_type_of_the_api_and_has_no_other_fields() -> Result<()> {
    for name in FOLDERS {
        let objects = render(&folder(name))?;
        let kinds: BTreeSet<&str> = objects
            .iter()
            .filter_map(|object| object["kind"].as_str())
            .collect();
        let expected = [
            "ClusterRole",
            "ClusterRoleBinding",
            "ConfigMap",
            "DaemonSet",
            "ServiceAccount",
        ];
        ensure!(kinds == expected.into(), "{name}: {kinds:?}");
        for object in &objects {
            check(object).with_context(|| name.to_owned())?;
        }
    }
    let smoke = fs::read_to_string(folder("overlays/kind/smoke.yaml"))?;
    for document in serde_yaml_ng::Deserializer::from_str(&smoke) {
        check(&Value::deserialize(document)?)?;
    }
    Ok(())
}

#[test]
fn kubectl_renders_the_same() -> Result<()> {
    let rendered = |name: &str| {
        Command::new("kubectl")
            .arg("kustomize")
            .arg(folder(name))
            .output()
    };
    let version = Command::new("kubectl")
        .args(["version", "--client", "--output=json"])
        .output();
    let knows = version.is_ok_and(|output| {
        let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        version["kustomizeVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("v5."))
    });
    if !knows {
        eprintln!("there is no kubectl with kustomize 5 here: nothing to compare with");
        return Ok(());
    }
    for name in FOLDERS {
        let output = rendered(name)?;
        ensure!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut theirs = BTreeMap::new();
        for document in serde_yaml_ng::Deserializer::from_slice(&output.stdout) {
            let mut object = Value::deserialize(document)?;
            strip_hashes(&mut object);
            theirs.insert(object["kind"].to_string(), object);
        }
        let ours = render(&folder(name))?;
        ensure!(ours.len() == theirs.len(), "{name}");
        for object in ours {
            let theirs = &theirs[&object["kind"].to_string()];
            ensure!(&object == theirs, "{name}:\n{object:#}\nkubectl:\n{theirs:#}");
        }
    }
    Ok(())
}

/// Takes the hash off the name of the generated ConfigMap.
fn strip_hashes(value: &mut Value) {
    match value {
        Value::String(text) => {
            let hash = text.strip_prefix("fairlead-").filter(|hash| hash.len() == 10);
            if hash.is_some_and(|hash| hash.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())) {
                "fairlead".clone_into(text);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(strip_hashes),
        Value::Object(fields) => fields.values_mut().for_each(strip_hashes),
        _ => {}
    }
}

/// What the agent does at the API server: it lists and watches each kind, and writes Events.
fn used() -> BTreeSet<Right> {
    let watched = Kind::ALL.map(|kind| match kind {
        Kind::Service => ("", "services"),
        Kind::Node => ("", "nodes"),
        Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
        Kind::ServiceCidr => ("networking.k8s.io", "servicecidrs"),
    });
    let watched = watched
        .into_iter()
        .flat_map(|(group, kind)| [(group, kind, "list"), (group, kind, "watch")]);
    let events = ["create", "patch"].map(|verb| ("events.k8s.io", "events", verb));
    watched
        .chain(events)
        .map(|(group, kind, verb)| (group.to_owned(), kind.to_owned(), verb.to_owned()))
        .collect()
}

#[test]
fn the_role_allows_what_the_agent_does_and_nothing_else() -> Result<()> {
    let (_, allowed) = role()?;
    ensure!(allowed == used(), "{allowed:?}");
    Ok(())
}

#[test]
fn the_role_is_bound_to_the_account_of_the_pods() -> Result<()> {
    let objects = render(&folder("base"))?;
    let name = |kind| find(&objects, kind).map(|object| object["metadata"]["name"].clone());
    let binding = find(&objects, "ClusterRoleBinding").context("a binding")?;
    ensure!(Some(&binding["roleRef"]["name"]) == name("ClusterRole").as_ref());
    let subjects =
        json!([{"kind": "ServiceAccount", "name": name("ServiceAccount"), "namespace": "kube-system"}]);
    ensure!(binding["subjects"] == subjects, "{binding:#}");
    ensure!(pod("base")?.service_account_name.as_deref() == Some("fairlead"));
    Ok(())
}

/// The configuration of a container: its arguments, and the file in the ConfigMap that is mounted where they say.
fn config(folder_name: &str, container: &Container, pod: &PodSpec) -> Result<Config> {
    let objects = render(&folder(folder_name))?;
    let map = find(&objects, "ConfigMap").context("a ConfigMap")?;
    let args = arguments(container)?;
    let path = args.config.config.context("--config")?;
    let mounts = container.volume_mounts.iter().flatten();
    let mount = mounts
        .clone()
        .find(|mount| path.starts_with(&mount.mount_path))
        .context("the file is in a volume")?;
    let mut volumes = pod.volumes.iter().flatten();
    let volume = volumes
        .find(|volume| volume.name == mount.name)
        .context("a volume")?;
    ensure!(
        Some(&volume.config_map.as_ref().context("a ConfigMap")?.name)
            == map["metadata"]["name"].as_str().map(str::to_owned).as_ref()
    );
    let key = path
        .strip_prefix(&mount.mount_path)?
        .to_str()
        .context("text")?
        .to_owned();
    let text = map["data"][&key]
        .as_str()
        .with_context(|| format!("the ConfigMap has no {key}"))?;
    let (settings, notices) = file::parse(Path::new(&key), text)?;
    ensure!(notices.is_empty(), "{notices:?}");
    let environment = Environment {
        node_name: Some("node".to_owned()),
        kubeconfig: None,
        in_pod: true,
    };
    Ok(Config::new(&args.config.settings.over(settings), &environment)?)
}

#[test]
fn the_agent_understands_its_arguments_and_its_file() -> Result<()> {
    for name in FOLDERS {
        let pod = pod(name)?;
        for container in containers(&pod) {
            config(name, container, &pod).with_context(|| format!("{name}: {}", container.name))?;
        }
        let variables = agent(&pod)?.env.iter().flatten();
        let field = |name: &str| variables.clone().find(|variable| variable.name == name).cloned();
        let node = field("NODE_NAME").and_then(|variable| variable.value_from?.field_ref);
        ensure!(node.context("NODE_NAME")?.field_path == "spec.nodeName");
    }
    let init = pod(MOUNTING)?.init_containers.context("a first container")?;
    ensure!(arguments(&init[0])?.init_only);
    Ok(())
}

#[test]
fn overlays_name_an_api_server_that_is_no_service() -> Result<()> {
    for name in FOLDERS.iter().filter(|name| **name != "base") {
        let pod = pod(name)?;
        let config = config(name, agent(&pod)?, &pod)?;
        let cli::config::Source::Kubernetes(api) = config.source else {
            anyhow::bail!("{name}: no API server")
        };
        ensure!(api.kubeconfig.is_some() || !api.masters.is_empty(), "{name}");
        for service in ["10.96.0.1", "kubernetes.default"] {
            ensure!(!api.masters.iter().any(|url| url.contains(service)), "{name}");
        }
    }
    Ok(())
}

#[test]
fn pins_and_cgroup_are_the_hosts_and_are_where_the_file_says() -> Result<()> {
    for name in FOLDERS {
        let pod = pod(name)?;
        for container in containers(&pod) {
            let config = config(name, container, &pod)?;
            let cgroup = config.cgroup.context("a cgroup")?;
            for (path, host, writable) in [
                (config.bpffs, "/sys/fs/bpf", true),
                (cgroup, "/sys/fs/cgroup", false),
            ] {
                let what = format!("{name}: {}: {}", container.name, path.display());
                let mounts = container.volume_mounts.iter().flatten();
                let mount = mounts
                    .clone()
                    .find(|mount| path.starts_with(&mount.mount_path))
                    .context(what.clone())?;
                ensure!(mount.read_only.unwrap_or(false) != writable, "{what}");
                let mut volumes = pod.volumes.iter().flatten();
                let volume = volumes
                    .find(|volume| volume.name == mount.name)
                    .context(what.clone())?;
                let source = &volume.host_path.as_ref().context(what.clone())?.path;
                let within = path.strip_prefix(&mount.mount_path)?;
                ensure!(
                    Path::new(source).join(within).starts_with(host),
                    "{what}: {source}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn probes_ask_for_health_where_the_agent_answers() -> Result<()> {
    for name in FOLDERS {
        let pod = pod(name)?;
        let container = agent(&pod)?;
        let port = config(name, container, &pod)?
            .healthz_bind_address
            .context("health checks")?
            .addr()
            .port();
        let ports = container.ports.as_ref().context("ports")?;
        let healthz = ports
            .iter()
            .find(|port| port.name.as_deref() == Some("healthz"))
            .context("healthz")?;
        ensure!(
            (healthz.container_port, healthz.host_port) == (port.into(), Some(port.into())),
            "{healthz:?}"
        );
        let probes = [
            (&container.startup_probe, "/livez"),
            (&container.liveness_probe, "/livez"),
            (&container.readiness_probe, "/healthz"),
        ];
        for (probe, path) in probes {
            let probe = probe
                .as_ref()
                .and_then(|probe| probe.http_get.as_ref())
                .context(path)?;
            ensure!(probe.path.as_deref() == Some(path));
            ensure!(serde_json::to_value(&probe.port)? == "healthz");
        }
    }
    Ok(())
}

#[test]
fn the_agent_has_no_more_privileges_than_it_needs_and_every_node_gets_one() -> Result<()> {
    for name in FOLDERS {
        let pod = pod(name)?;
        let security = agent(&pod)?
            .security_context
            .as_ref()
            .context("a security context")?;
        ensure!(security.privileged == Some(false) && security.allow_privilege_escalation == Some(false));
        ensure!(security.read_only_root_filesystem == Some(true));
        let capabilities = security.capabilities.as_ref().context("capabilities")?;
        ensure!(capabilities.drop == Some(vec!["ALL".to_owned()]));
        ensure!(capabilities.add == Some(["BPF", "NET_ADMIN", "PERFMON"].map(str::to_owned).to_vec()));
        ensure!(pod.host_network == Some(true) && pod.host_pid.is_none() && pod.host_ipc.is_none());
        ensure!(pod.priority_class_name.as_deref() == Some("system-node-critical"));
        let tolerations = serde_json::to_value(&pod.tolerations)?;
        ensure!(tolerations == json!([{"operator": "Exists"}]), "{tolerations}");
        for container in containers(&pod) {
            let resources = container.resources.as_ref().context("resources")?;
            ensure!(
                resources.requests.is_some() && resources.limits.is_some(),
                "{}",
                container.name
            );
        }
    }
    Ok(())
}

#[test]
fn the_unit_has_the_capabilities_of_the_pod() -> Result<()> {
    let unit = fs::read_to_string(folder("systemd/fairlead.service"))?;
    let line = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name));
    let of_unit: BTreeSet<&str> = line("CapabilityBoundingSet=")
        .context("capabilities")?
        .split(' ')
        .collect();
    let pod = pod("base")?;
    let of_pod = agent(&pod)?
        .security_context
        .as_ref()
        .and_then(|security| security.capabilities.as_ref());
    let of_pod = of_pod
        .and_then(|capabilities| capabilities.add.as_ref())
        .context("capabilities")?;
    let of_pod: Vec<String> = of_pod.iter().map(|name| format!("CAP_{name}")).collect();
    ensure!(
        of_unit == of_pod.iter().map(String::as_str).collect(),
        "{of_unit:?}"
    );
    let arguments = line("ExecStart=/usr/local/bin/").context("ExecStart")?;
    Cli::try_parse_from(arguments.split(' '))?;
    Ok(())
}
