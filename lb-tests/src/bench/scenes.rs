//! All scenes of the lab, with all proxies in turns.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use lb_testkit::{Lab, Wiring};

use super::{
    args::{Args, Extent, Part},
    figures::{Figures, Scene},
    load::{self, Load, Servers},
    proxies::{self, Proxy, Running},
    services::{self, NEAR, PORTS, Service, TARGETS},
    wire::{self, Ends, Path},
};

/// How often a measurement is tried in one turn: a busy machine loses datagrams.
const ATTEMPTS: u32 = 3;

/// Measures everything in one lab.
///
/// # Errors
///
/// If the lab cannot be built, or something of one proxy stays when the next one's turn comes. What fails in between is
/// noted with what was to be measured.
pub(crate) fn measure(
    object: &[u8],
    cpu: usize,
    args: &Args,
    extent: &Extent,
    figures: &mut Figures,
) -> Result<()> {
    let lab = Lab::builder()
        .wiring(Wiring::Routed)
        .build()
        .context("build the lab")?;
    proxies::set(lab.node(1), &proxies::LAB)?;
    wire::prepare(&lab)?;
    let _servers = Servers::start(lab.pod(1, 2))?;
    let stage = Stage {
        lab: &lab,
        object,
        args,
        extent,
        cpu,
    };
    for count in &extent.services {
        let services = services::services(&lab, *count);
        if let Some(folder) = &args.rules {
            proxies::write_baselines(folder, &services)?;
        }
        for round in 0..extent.rounds {
            let mut order = Proxy::ALL;
            let first = round % order.len();
            order.rotate_left(first);
            for proxy in order {
                eprintln!(
                    "round {} of {}: {} services, {}",
                    round + 1,
                    extent.rounds,
                    services.len(),
                    proxy.name()
                );
                stage.turn(proxy, &services, figures)?;
            }
        }
    }
    Ok(())
}

/// What stays the same in all turns.
struct Stage<'a> {
    lab: &'a Lab,
    object: &'a [u8],
    args: &'a Args,
    extent: &'a Extent,
    cpu: usize,
}

impl Stage<'_> {
    /// What is measured with a proxy.
    fn scenes(&self, proxy: Proxy) -> impl Iterator<Item = Scene> {
        Scene::ALL.into_iter().filter(move |scene| {
            let fits = proxy != Proxy::Turn || *scene == Scene::Packets(Path::Uplink);
            fits && self.args.wants(match scene {
                Scene::Packets(_) => Part::Packets,
                Scene::FromPod(_) | Scene::FromNode(_) => Part::Load,
            })
        })
    }

    /// One proxy's turn.
    fn turn(&self, proxy: Proxy, services: &[Service], figures: &mut Figures) -> Result<()> {
        let mut note = |scene, result: Result<f64>| {
            let outcome = figures.lab.entry((scene, services.len(), proxy)).or_default();
            match result {
                Ok(figure) => outcome.samples.push(figure),
                Err(error) => {
                    eprintln!("failed: {scene}, {}: {error:#}", proxy.name());
                    outcome.failures.push(format!("{error:#}"));
                }
            }
        };
        let running = match Running::start(self.lab, proxy, services) {
            Ok(running) => running,
            Err(error) => {
                let why = format!("{error:#}");
                for scene in self.scenes(proxy) {
                    note(
                        scene,
                        Err(anyhow::anyhow!("{} did not start: {why}", proxy.name())),
                    );
                }
                return Running::sweep(self.lab, proxy);
            }
        };
        for scene in self.scenes(proxy) {
            for _ in 0..ATTEMPTS {
                let result = self.scene(scene, proxy).with_context(|| running.context());
                proxies::forget_connections(self.lab.node(1))?;
                let done = result.is_ok();
                note(scene, result);
                if done {
                    break;
                }
            }
        }
        running.stop()
    }

    fn scene(&self, scene: Scene, proxy: Proxy) -> Result<f64> {
        let proxied = proxy != Proxy::None;
        let addr = |load: Load| {
            let nth = load.target();
            if proxied {
                SocketAddr::from((NEAR, PORTS[nth]))
            } else {
                SocketAddr::from((self.lab.pod(1, 2).v4, TARGETS[nth]))
            }
        };
        let time = self.extent.time;
        match scene {
            // The sink is there only meanwhile: it changes how the switch's port takes packets.
            Scene::Packets(path) => {
                let mut ends = Ends::attach(self.lab, self.object, self.cpu)?;
                if proxy == Proxy::Turn {
                    ends.turn_at_once()?;
                }
                ends.rate(path, proxied, time)
            }
            Scene::FromPod(load) => load::rate(self.lab.pod(1, 1), load, addr(load), time),
            Scene::FromNode(load) => load::rate(self.lab.node(1), load, addr(load), time),
        }
    }
}
