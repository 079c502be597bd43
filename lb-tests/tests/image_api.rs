//! The container image in a pod's environment: it finds the API server as pods do, by its service account, with the privileges
//! of the DaemonSet and what its role allows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Lab, Server, Wiring,
    api::{Access, ServiceAccount, Verb},
};
use lb_tests::{
    agent::eventually,
    cluster::{Cluster, answered_by, curl},
    container::{Container, Image},
    deploy,
    manifests::Manifest,
    stage::web,
    traffic::without_a_lost_request,
};

/// Where pods find their service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The ServiceAccount of `deploy/base`.
const USER: &str = "system:serviceaccount:kube-system:fairlead";
/// What the lab's agents are told besides. The node's name is in the environment, as the manifest has it.
const MORE: [&str; 3] = ["--uplink=eth0", "--workload=veth-*", "--log-level=debug"];
/// The agent reads its token anew after a minute at most, and kube waits for up to half a minute between two attempts.
const ROTATED: Duration = Duration::from_secs(150);

/// A cluster with a Service `web` on node 1, and the image for a pod whose account has a token.
struct Pod {
    _servers: Vec<Server>,
    image: Image,
    account: ServiceAccount,
    cluster: Cluster,
}

impl Pod {
    fn new(token: &str) -> Result<Self> {
        let cluster = Cluster::on(Lab::builder().wiring(Wiring::Bridged).pods_per_node(3).build()?)?;
        let (lab, api) = (&cluster.lab, &cluster.api);
        let servers = vec![
            Server::start(lab.pod(1, 2), 8080)?,
            Server::start(lab.pod(1, 3), 8080)?,
        ];
        let (role, _) = deploy::role()?;
        api.user(token, USER, Access::rules(&role));
        let account = ServiceAccount::mount(api, &lab.folder().join("account"), "kube-system", token)?;
        let address = api.addresses()[0];
        let image = Image::new(lab)?
            .variable("KUBERNETES_SERVICE_HOST", &address.ip().to_string())
            .variable("KUBERNETES_SERVICE_PORT", &address.port().to_string());
        let pod = Self {
            _servers: servers,
            image,
            account,
            cluster,
        };
        pod.serve(2)?;
        Ok(pod)
    }

    /// Has the pod of that number on node 1 serve `web`.
    fn serve(&self, pod: usize) -> Result<()> {
        let manifest = Manifest::new("web", 10)
            .port(80, 8080, None)
            .endpoint(self.cluster.lab.pod(1, pod), "node1");
        self.cluster.apply(&manifest)
    }

    fn start(&self, more: &[&str]) -> Result<Container> {
        let lab = &self.cluster.lab;
        let folder = lab.folder().join("account");
        let folders = [(folder.as_path(), ACCOUNT)];
        let more = [&MORE, more].concat();
        self.image
            .start(lab, 1, &self.image.capabilities()?, &more, &folders)
    }
}

#[test]
fn the_image_serves_from_the_api_with_the_account_and_the_role_of_its_pod() {
    in_pod().unwrap();
}

fn in_pod() -> Result<()> {
    let mut pod = Pod::new("first-token")?;
    let mut agent = pod.start(&[])?;
    agent.wait_for("fairlead is ready")?;
    let (cluster, api) = (&pod.cluster, &pod.cluster.api);
    let lab = &cluster.lab;
    // Its role allows what it needs, its Node is its own, and nothing was asked by anybody else.
    answered_by(&[lab.pod(1, 1), lab.node(1)], &web(), &[lab.pod(1, 2)])?;
    pod.serve(3)?;
    answered_by(&[lab.pod(1, 1), lab.node(1)], &web(), &[lab.pod(1, 3)])?;
    let (_, health) = curl(lab.node(1), &format!("http://{}:10256/healthz", lab.node(1).v4))?;
    ensure!(
        health.contains(r#""nodeEligible":true"#) && health.contains(r#""state":"reached""#),
        "{health}"
    );
    ensure!(!api.asked(USER).is_empty() && api.asked("system:anonymous").is_empty());
    ensure!(!agent.log().contains("ERROR"), "{}", agent.log());

    // The token that the agent has read is not good any more, and another one lies in its place.
    api.user("second-token", USER, Access::rules(&deploy::role()?.0));
    pod.account.rotate("second-token")?;
    api.forget_user("first-token");
    let before = pod.cluster.api.requests(Verb::Watch, "services");
    without_a_lost_request(&[(pod.cluster.lab.pod(1, 1), web()[0])], || {
        pod.cluster.api.end_watches(None);
        agent.wait_for("does not accept the agent's credentials")?;
        pod.serve(2)?;
        eventually(ROTATED, || {
            ensure!(pod.cluster.api.watches("endpointslices") > 0, "{}", agent.log());
            Ok(())
        })?;
        ensure!(pod.cluster.api.requests(Verb::Watch, "services") > before);
        answered_by(&[pod.cluster.lab.pod(1, 1)], &web(), &[pod.cluster.lab.pod(1, 2)])
    })
    .with_context(|| agent.log())
}

#[test]
fn a_kubeconfig_without_a_certificate_authority_is_one_clear_error_in_the_empty_image() {
    no_authority().unwrap();
}

fn no_authority() -> Result<()> {
    let pod = Pod::new("a-token")?;
    let (lab, image) = (&pod.cluster.lab, &pod.image);
    let folder = lab.folder().join("kubeconfigs");
    std::fs::create_dir_all(&folder)?;
    let start = |cluster: &str| -> Result<Container> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{}'{cluster}}}}}]\nusers: [{{name: u, user: {{token: a-token}}}}]\n",
            pod.cluster.api.url()
        );
        std::fs::write(folder.join("config"), text)?;
        let folders = [(folder.as_path(), "/run/kubeconfig")];
        let more = [&MORE[..], &["--kubeconfig=/run/kubeconfig/config"]].concat();
        image.start(lab, 1, &image.capabilities()?, &more, &folders)
    };
    let (success, log) = start("")?.end()?;
    ensure!(
        !success && log.contains("certificate-authority") && log.contains("/run/kubeconfig/config"),
        "{log}"
    );
    // Who wants no authority to be asked needs none.
    start(", insecure-skip-tls-verify: true")?.wait_for("fairlead is ready")
}
