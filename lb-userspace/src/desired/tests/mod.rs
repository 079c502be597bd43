//! Tests of the rules, with a node in memory.

mod changes;
mod claims;
mod endpoints;
mod frontends;
mod health;
mod notices;
mod policies;
mod sources;
mod topology;

use super::*;
use crate::watch::{
    Event, Kind, Object,
    testing::{service, slice},
};

/// Index and desired state of a node "n1" with the addresses 192.0.2.1 and 2001:db8::1.
struct Node {
    index: Index,
    desired: Desired,
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "n1".into(),
        zone: None,
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        own: ["192.0.2.1", "192.0.2.99", "2001:db8::1"]
            .map(|addr| addr.parse().unwrap())
            .into(),
    }
}

impl Node {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let mut index = Index::new();
        for kind in Kind::ALL {
            index.reset(kind, Vec::new());
        }
        let mut node = Self {
            index,
            desired: Desired::new(options, facts()),
        };
        assert_eq!(
            node.desired.update(&mut node.index),
            Some(Update {
                full: true,
                ..Update::default()
            }),
            "the first update always comes"
        );
        node
    }

    fn update(&mut self, objects: impl IntoIterator<Item = Object>) -> Update {
        objects.into_iter().for_each(|object| self.index.apply(object));
        self.desired.update(&mut self.index).unwrap_or_default()
    }

    /// The changes that objects lead to, as text.
    fn apply(&mut self, objects: impl IntoIterator<Item = Object>) -> Vec<String> {
        self.update(objects).changes.iter().map(describe).collect()
    }

    fn delete(&mut self, object: &Object) -> Vec<String> {
        self.index.delete(object);
        self.update([]).changes.iter().map(describe).collect()
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::Delete(key) => format!("- {key}"),
        Change::Apply(key, port) => {
            let frontends: Vec<_> = port.frontends.keys().map(ToString::to_string).collect();
            let endpoints: Vec<_> = port
                .endpoints
                .iter()
                .map(|(addr, e)| format!("{addr}{}", if e.local { "*" } else { "" }))
                .collect();
            format!("{key}: {} -> {}", frontends.join(" "), endpoints.join(" "))
        }
    }
}

/// A Service of namespace ns with one port 80.
fn web(spec: &str) -> Object {
    service(&format!(
        "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]{spec}}}"
    ))
}

fn web_slice(endpoints: &str) -> Object {
    slice(&format!(
        "metadata: {{name: web-1, namespace: ns, labels: {{kubernetes.io/service-name: web}}}}\naddressType: \
         IPv4\nendpoints: [{endpoints}]\nports: [{{port: 8080}}]"
    ))
}
