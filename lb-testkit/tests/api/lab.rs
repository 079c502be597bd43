//! The server in a lab: in a node's namespace, asked from others.

use std::net::{Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_testkit::{
    Host, Lab,
    api::{ADMIN, ApiServer},
};

use crate::service;

/// How many Services a client on `host` sees by the server of a context (`server-1`), or why it sees none.
fn seen(host: &Host, kubeconfig: &Kubeconfig, context: &str) -> Result<usize, String> {
    let ask = async {
        let options = KubeConfigOptions {
            context: Some(context.to_owned()),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await;
        let client = Client::try_from(config.map_err(|error| error.to_string())?);
        let services: Api<Service> = Api::all(client.map_err(|error| error.to_string())?);
        let list = services.list(&ListParams::default()).await;
        Ok(list.map_err(|error| error.to_string())?.items.len())
    };
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    host.run(|| runtime().block_on(ask)).unwrap()
}

#[test]
fn servers_of_one_cluster_are_asked_at_their_nodes() {
    let lab = Lab::builder().pods_per_node(1).build().unwrap();
    let api = ApiServer::start(lab.node(1), (Ipv4Addr::UNSPECIFIED, 6443).into()).unwrap();
    api.listen(lab.node(2), (Ipv6Addr::UNSPECIFIED, 6443).into())
        .unwrap();
    assert_eq!(
        api.urls(),
        ["https://172.18.0.2:6443", "https://[fd00:172:18::3]:6443"]
    );
    api.create(service("web")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    api.kubeconfig(&path, ADMIN, &api.urls()).unwrap();
    let kubeconfig = Kubeconfig::read_from(&path).unwrap();
    assert_eq!(seen(lab.client(), &kubeconfig, "server-1"), Ok(1));
    assert_eq!(seen(lab.client(), &kubeconfig, "server-2"), Ok(1));
    assert_eq!(seen(lab.node(1), &kubeconfig, "server-1"), Ok(1));

    api.refuse_at(0);
    api.cut_at(0).unwrap();
    assert!(seen(lab.client(), &kubeconfig, "server-1").is_err());
    assert_eq!(seen(lab.client(), &kubeconfig, "server-2"), Ok(1));
    api.accept_again().unwrap();
    assert_eq!(seen(lab.client(), &kubeconfig, "server-1"), Ok(1));
}
