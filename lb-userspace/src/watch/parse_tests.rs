use proptest::prelude::*;

use super::*;

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: 80, targetPort: 8080}]
";

const SLICE: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{port: 8080}]
";

fn names(parsed: &Parsed) -> Vec<String> {
    parsed
        .objects
        .iter()
        .map(|located| located.object.key().to_string())
        .collect()
}

/// The problems of a text that is meant to have some, as an operator sees them.
fn problems(text: &str) -> Vec<String> {
    let parsed = parse(text);
    assert!(!parsed.problems.is_empty(), "no problem in {text}");
    parsed.problems.iter().map(ToString::to_string).collect()
}

/// The fields that a Service is refused for when a piece of it is changed.
fn refused_service(from: &str, to: &str) -> Vec<String> {
    let text = SERVICE.replace(from, to);
    assert_ne!(text, SERVICE, "{from:?} is not in the Service");
    parse(&text)
        .problems
        .into_iter()
        .map(|problem| problem.field)
        .collect()
}

fn refused_slice(from: &str, to: &str) -> Vec<String> {
    let text = SLICE.replace(from, to);
    assert_ne!(text, SLICE, "{from:?} is not in the slice");
    parse(&text)
        .problems
        .into_iter()
        .map(|problem| problem.field)
        .collect()
}

#[test]
fn several_documents_are_read_and_empty_ones_are_skipped() {
    let parsed = parse(&format!(
        "# a comment\n---\n{SERVICE}---\n---\n# nothing here\n---\n{SLICE}---\n"
    ));
    assert_eq!(parsed.problems, []);
    assert_eq!(
        names(&parsed),
        ["Service default/web", "EndpointSlice shop/web-1"]
    );
    assert!(parsed.objects[0].document < parsed.objects[1].document);
}

#[test]
fn an_empty_text_has_no_objects_and_no_problems() {
    for text in ["", "\n", "---\n", "# only a comment\n", "---\n---\n...\n"] {
        assert_eq!(parse(text), Parsed::default(), "{text:?}");
    }
}

#[test]
fn lists_are_taken_apart() {
    let item = SERVICE
        .lines()
        .map(|line| format!("\n  {line}"))
        .collect::<String>();
    let parsed = parse(&format!("apiVersion: v1\nkind: List\nitems:\n-{}\n", &item[2..]));
    assert_eq!(parsed.problems, []);
    assert_eq!(names(&parsed), ["Service default/web"]);
    let bare = "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {clusterIP: 10.0.0.1, ports: [{port: 0}]}\n";
    assert_eq!(
        problems(bare),
        ["document 1, items[0].spec.ports[0].port: 0 is no port number (or it is missing); write 1 to 65535"]
    );
}

#[test]
fn json_is_read_with_its_own_escapes() {
    let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","annotations":{"a":"\ud83d\ude00"}},
        "spec":{"clusterIP":"10.96.0.10","ports":[{"port":80}]}}"#;
    let parsed = parse(&format!("{text}\n{text}"));
    assert_eq!(parsed.problems, []);
    assert_eq!(names(&parsed).len(), 2);
    assert_eq!(
        names(&parse(&format!("---\n{}", text.replace(r"\ud83d\ude00", "b")))),
        ["Service default/web"]
    );
}

#[test]
fn yaml_anchors_and_merges_are_resolved() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  \
                - &p {name: a, port: 80}\n  - <<: *p\n    name: b\n    port: 81\n";
    let parsed = parse(text);
    assert_eq!(parsed.problems, []);
    assert_eq!(names(&parsed), ["Service default/web"]);
}

#[test]
fn unknown_kinds_are_skipped_with_a_note_each() {
    let text = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{replicas: 3}}\n---\n{SERVICE}"
    );
    let parsed = parse(&text);
    assert_eq!(names(&parsed), ["Service default/web"]);
    assert_eq!(
        parsed.notes[0].to_string(),
        "document 1: Deployment web (apps/v1) is skipped: only Service, EndpointSlice, Node and ServiceCIDR are used"
    );
}

#[test]
fn a_problem_names_document_field_and_remedy() {
    let text = format!("{SLICE}---\n{}", SERVICE.replace("port: 80,", "port: 70000,"));
    let parsed = parse(&text);
    assert_eq!(
        names(&parsed),
        ["EndpointSlice shop/web-1"],
        "the other object is not hidden"
    );
    assert_eq!(
        parsed.problems[0].to_string(),
        "document 2, spec.ports[0].port: 70000 is no port number (or it is missing); write 1 to 65535"
    );
}

#[test]
fn a_wrong_type_is_named_by_its_path() {
    let found = problems(&SERVICE.replace("port: 80,", "port: eighty,"));
    assert!(
        found[0].starts_with("document 1, spec.ports[0].port: invalid type: string"),
        "{}",
        found[0]
    );
    let found = problems(&SERVICE.replace("{name: web}", "{name: 7}"));
    assert!(
        found[0].starts_with("document 1, metadata.name: invalid type"),
        "{}",
        found[0]
    );
}

#[test]
fn a_syntax_error_is_told_with_its_line() {
    let found = problems(&format!("{SERVICE}---\nspec: [1,\n"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("document 2: not YAML: ") && found[0].contains("line"),
        "{}",
        found[0]
    );
    assert_eq!(
        names(&parse(&format!("{SERVICE}---\nspec: [1,\n"))),
        ["Service default/web"]
    );
}

#[test]
fn what_is_no_object_is_refused() {
    assert!(problems("just text")[0].contains("not a mapping"));
    assert!(problems("- 1\n- 2\n")[0].contains("not a mapping"));
    assert!(problems("kind: Service")[0].starts_with("document 1, apiVersion: missing"));
    assert!(problems("apiVersion: v1")[0].starts_with("document 1, kind: missing"));
    assert!(problems("a: 1\na: 2\n")[0].contains("duplicate"));
    let old = SLICE.replace("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1");
    assert_eq!(
        problems(&old),
        [
            "document 1, apiVersion: discovery.k8s.io/v1beta1 has no EndpointSlice that can be used here; write discovery.k8s.io/v1"
        ]
    );
}

#[test]
fn a_service_without_cluster_ip_is_refused_whatever_its_type() {
    assert_eq!(
        refused_service("  clusterIP: 10.96.0.10\n", ""),
        ["spec.clusterIP"]
    );
    assert_eq!(
        refused_service("  clusterIP: 10.96.0.10\n", "  clusterIP: ''\n"),
        ["spec.clusterIP"]
    );
    let node_port = "  type: NodePort\n  ports: [{port: 80, nodePort: 30080}]\n";
    let text = SERVICE
        .replace("  clusterIP: 10.96.0.10\n", "")
        .replace("  ports: [{port: 80, targetPort: 8080}]\n", node_port);
    assert!(problems(&text)[0].contains("spec.clusterIP: missing; no API server allocates one here"));
}

#[test]
fn headless_and_external_name_services_need_no_cluster_ip_and_no_ports() {
    for spec in [
        "{clusterIP: None}",
        "{type: ExternalName, externalName: example.org}",
    ] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
        assert_eq!(parse(&text).problems, [], "{spec}");
    }
}

#[test]
fn cluster_ips_must_parse_and_agree() {
    assert_eq!(refused_service("10.96.0.10", "10.96.0"), ["spec.clusterIP"]);
    assert_eq!(refused_service("10.96.0.10", "127.0.0.1"), ["spec.clusterIP"]);
    assert_eq!(refused_service("10.96.0.10", "0.0.0.0"), ["spec.clusterIP"]);
    assert_eq!(
        refused_service("10.96.0.10", "'::ffff:10.0.0.1'"),
        ["spec.clusterIP"]
    );
    assert_eq!(
        refused_service("10.96.0.10", "10.0.0.1\n  clusterIPs: [10.0.0.2]"),
        ["spec.clusterIPs[0]"]
    );
    assert_eq!(
        refused_service("10.96.0.10", "10.0.0.1\n  clusterIPs: [10.0.0.1, 10.0.0.2]"),
        ["spec.clusterIPs"]
    );
    assert_eq!(
        refused_service("10.96.0.10", "10.0.0.1\n  clusterIPs: [10.0.0.1, 'fd00::1']"),
        [""; 0]
    );
    assert_eq!(
        refused_service("clusterIP: 10.96.0.10", "clusterIPs: ['fd00::1', 10.0.0.1]"),
        [""; 0]
    );
}

#[test]
fn ports_are_checked_as_the_api_server_does() {
    let ports = |ports: &str| refused_service("[{port: 80, targetPort: 8080}]", ports);
    assert_eq!(ports("[]"), ["spec.ports"]);
    assert_eq!(ports("[{port: 0}]"), ["spec.ports[0].port"]);
    assert_eq!(ports("[{port: -1}]"), ["spec.ports[0].port"]);
    assert_eq!(ports("[{port: 80, protocol: ICMP}]"), ["spec.ports[0].protocol"]);
    assert_eq!(
        ports("[{port: 80, targetPort: 65536}]"),
        ["spec.ports[0].targetPort"]
    );
    assert_eq!(ports("[{port: 80, targetPort: http}]"), [""; 0]);
    assert_eq!(ports("[{port: 80}, {port: 81, name: b}]"), ["spec.ports[0].name"]);
    assert_eq!(
        ports("[{port: 80, name: a}, {port: 81, name: a}]"),
        ["spec.ports[1].name"]
    );
    assert_eq!(
        ports("[{port: 80, name: a}, {port: 80, name: b}]"),
        ["spec.ports[1].port"]
    );
    assert_eq!(
        ports("[{port: 53, name: a}, {port: 53, name: b, protocol: UDP}]"),
        [""; 0]
    );
    assert_eq!(ports("[{port: 80, name: A_b}]"), ["spec.ports[0].name"]);
}

#[test]
fn node_ports_must_fit_the_type_and_leave_the_system_ports_alone() {
    let spec = |spec: &str| refused_service("ports: [{port: 80, targetPort: 8080}]", spec);
    assert_eq!(
        spec("ports: [{port: 80, nodePort: 30080}]"),
        ["spec.ports[0].nodePort"]
    );
    assert_eq!(
        spec("type: NodePort\n  ports: [{port: 80, nodePort: 30080}]"),
        [""; 0]
    );
    assert_eq!(
        spec("type: NodePort\n  ports: [{port: 80, nodePort: 22}]"),
        ["spec.ports[0].nodePort"]
    );
    assert_eq!(
        spec("type: NodePort\n  ports: [{port: 80, nodePort: 70000}]"),
        ["spec.ports[0].nodePort"]
    );
    assert_eq!(
        spec("type: NodePort\n  ports: [{port: 80}]"),
        ["spec.ports[0].nodePort"]
    );
    assert_eq!(spec("type: LoadBalancer\n  ports: [{port: 80}]"), [""; 0]);
    assert_eq!(
        spec(
            "type: NodePort\n  ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}]"
        ),
        ["spec.ports[1].nodePort"]
    );
    assert_eq!(
        spec(
            "type: NodePort\n  ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: UDP, nodePort: 30080}]"
        ),
        [""; 0]
    );
}

#[test]
fn words_that_kubernetes_does_not_know_are_refused() {
    for (line, field) in [
        ("type: Nodeport", "spec.type"),
        ("sessionAffinity: Cookie", "spec.sessionAffinity"),
        ("internalTrafficPolicy: local", "spec.internalTrafficPolicy"),
        ("externalTrafficPolicy: Zone", "spec.externalTrafficPolicy"),
        ("externalIPs: [example.org]", "spec.externalIPs[0]"),
        (
            "type: LoadBalancer\n  loadBalancerSourceRanges: [' 10.0.0.0/8 ', 'fd00::/8', 10.0.0.1]",
            "spec.loadBalancerSourceRanges[2]",
        ),
        (
            "loadBalancerSourceRanges: [10.0.0.0/8]",
            "spec.loadBalancerSourceRanges",
        ),
    ] {
        assert_eq!(
            refused_service("  ports:", &format!("  {line}\n  ports:")),
            [field]
        );
    }
    let status = "status: {loadBalancer: {ingress: [{ip: 1.2.3.4, ipMode: Vip}, {ip: 1.2.3}]}}\n";
    assert_eq!(
        refused_service("metadata:", &format!("{status}metadata:")),
        [
            "status.loadBalancer.ingress[0].ipMode",
            "status.loadBalancer.ingress[1].ip"
        ]
    );
}

#[test]
fn names_follow_the_rules_of_kubernetes() {
    assert_eq!(refused_service("{name: web}", "{}"), ["metadata.name"]);
    assert_eq!(refused_service("{name: web}", "{name: Web}"), ["metadata.name"]);
    assert_eq!(refused_service("{name: web}", "{name: a.b}"), ["metadata.name"]);
    assert_eq!(
        refused_service("{name: web}", "{name: web, namespace: -a}"),
        ["metadata.namespace"]
    );
    assert_eq!(refused_slice("web-1", "web.1"), [""; 0]);
    assert_eq!(refused_slice("web-1", "web..1"), ["metadata.name"]);
}

#[test]
fn slices_are_checked_as_the_api_server_does() {
    assert_eq!(refused_slice("addressType: IPv4\n", ""), ["addressType"]);
    assert_eq!(refused_slice("IPv4", "ipv4"), ["addressType"]);
    assert_eq!(refused_slice("IPv4", "IPv6"), ["endpoints[0].addresses[0]"]);
    assert_eq!(refused_slice("[10.1.0.1]", "[]"), ["endpoints[0].addresses"]);
    assert_eq!(
        refused_slice("[10.1.0.1]", "[10.1.0.1, 10.1.0.300]"),
        ["endpoints[0].addresses[1]"]
    );
    assert_eq!(
        refused_slice("[10.1.0.1]", "[127.0.0.1]"),
        ["endpoints[0].addresses[0]"]
    );
    assert_eq!(refused_slice("[{port: 8080}]", "[{port: 0}]"), ["ports[0].port"]);
    assert_eq!(
        refused_slice("[{port: 8080}]", "[{name: a, port: 1}, {name: a, port: 2}]"),
        ["ports[1].name"]
    );
    assert_eq!(
        refused_slice("[{port: 8080}]", "[{port: 1}, {name: a, port: 2}]"),
        [""; 0]
    );
    assert_eq!(
        refused_slice("[{port: 8080}]", "[{port: 1, protocol: tcp}]"),
        ["ports[0].protocol"]
    );
}

#[test]
fn a_slice_that_serves_nothing_is_noted() {
    let parsed = parse(&SLICE.replace(", labels: {kubernetes.io/service-name: web}", ""));
    assert_eq!(parsed.problems, []);
    assert!(parsed.notes[0].message.contains("kubernetes.io/service-name"));
    let parsed = parse(&SLICE.replace("IPv4", "FQDN"));
    assert!(parsed.notes[0].message.contains("FQDN"));
}

/// Pieces that manifests are made of, so that random texts get past the first character.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "apiVersion: v1\n",
        "kind: Service\n",
        "kind: EndpointSlice\n",
        "kind: List\n",
        "---\n",
        "...\n",
        "metadata:\n",
        "apiVersion: discovery.k8s.io/v1\n",
        "  name: web\n",
        "spec:\n",
        "  ports:\n",
        "  - port: 80\n",
        "items:\n",
        "- ",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ",",
        "&a ",
        "*a",
        "<<: *a\n",
        "!!binary ",
        "'",
        "\"",
        "|\n",
        ">\n",
        "\t",
        "null\n",
        "~",
        "-1",
        "1e400",
        "99999999999999999999",
        "0x1F",
        "endpoints:\n",
        "- addresses: [10.0.0.1]\n",
        "addressType: IPv4\n",
        "%YAML 1.1\n",
        "? ",
        "#",
        "\r\n",
        "\u{feff}",
        "\u{0}",
        "\\ud800",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No text makes the parser panic, and each problem has a message.
    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..40)) {
        let parsed = parse(&pieces.concat());
        prop_assert!(parsed.problems.iter().all(|problem| problem.document > 0 && !problem.message.is_empty()));
    }

    /// A valid manifest with a piece cut out or put in does not panic either.
    #[test]
    fn no_damaged_manifest_panics(cut in 0usize..400, len in 0usize..20, piece in piece()) {
        let mut text = format!("{SERVICE}---\n{SLICE}");
        let from = cut.min(text.len());
        let to = (from + len).min(text.len());
        text.replace_range(from..to, &piece);
        parse(&text);
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        parse(&text);
    }
}
