//! The configuration as settings: what a file would have to hold to give the same.

use std::time::Duration;

use super::{
    args::BpfLog,
    config::{Config, Source},
    go_time,
    settings::Settings,
};

impl Config {
    /// Settings from which [`Config::new`] makes this configuration again in the same environment.
    pub fn settings(&self) -> Settings {
        let texts = |list: &[_]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
        let time = |nanoseconds| Some(go_time::format(nanoseconds));
        let duration = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (manifests, kubeconfig, master, api_timeout) = match &self.source {
            Source::Manifests(folder) => (Some(folder.clone()), None, None, None),
            Source::Kubernetes(api) => {
                let masters = (!api.masters.is_empty()).then(|| api.masters.clone());
                (None, api.kubeconfig.clone(), masters, time(duration(api.timeout)))
            }
        };
        let bind = |addr: Option<super::bind::Bind>| addr.map_or_else(String::new, |addr| addr.to_string());
        let node_ports = &self.node_port_range;
        let snat = self.snat_ports;
        Settings {
            manifests,
            kubeconfig,
            master,
            api_timeout,
            bpffs: Some(self.bpffs.clone()),
            cgroup: self.cgroup.clone(),
            socket_lb: Some(self.socket_lb),
            hostname_override: Some(self.node_name.clone()),
            nodeport_addresses: Some(if self.nodeport_addresses.is_empty() {
                vec!["primary".to_owned()]
            } else {
                texts(&self.nodeport_addresses)
            }),
            node_port_range: Some(format!("{}-{}", node_ports.start(), node_ports.end())),
            service_cidr: Some(texts(&self.service_cidrs)),
            drop_unallocated: Some(self.drop_unallocated),
            external_ips: Some(self.external_ips),
            snat_ports: Some(format!(
                "{}-{}",
                snat.first,
                u32::from(snat.first) + u32::from(snat.count) - 1
            )),
            uplink: Some(
                self.overrides
                    .uplink
                    .iter()
                    .map(|pattern| pattern.text().to_owned())
                    .collect(),
            ),
            workload: Some(
                self.overrides
                    .workload
                    .iter()
                    .map(|pattern| pattern.text().to_owned())
                    .collect(),
            ),
            xdp: Some(self.xdp.texts()),
            healthz_bind_address: Some(bind(self.healthz_bind_address)),
            metrics_bind_address: Some(bind(self.metrics_bind_address)),
            service_stats: Some(self.service_stats),
            metrics_max_services: Some(self.sizes.meters.into()),
            min_sync_period: time(duration(self.min_sync_period)),
            audit_period: time(duration(self.audit_period)),
            bpf_log: Some(BpfLog::of_number(self.bpf_log)),
            no_tcx: Some(self.no_tcx),
            tcp_established_timeout: time(self.timeouts.established),
            tcp_syn_timeout: time(self.timeouts.syn),
            tcp_close_wait_timeout: time(self.timeouts.closing),
            tcp_fin_timeout: time(self.timeouts.closed),
            udp_timeout: time(self.timeouts.udp),
            udp_stream_timeout: time(self.timeouts.udp_stream),
            max_flows: Some(self.sizes.flows),
            max_frontends: Some(self.sizes.frontends),
            max_services: Some(self.sizes.services),
            max_backends: Some(self.sizes.backends),
            maglev_slots: Some(self.sizes.maglev_slots),
            log_format: Some(self.log_format),
            log_level: Some(self.log_level.clone()),
        }
    }
}
