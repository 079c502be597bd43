//! Figures as tables for people, as Markdown and as JSON.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    figures::{Control, Figures, Memory, Scene, targets},
    proxies::Proxy,
    stats::{Samples, Summary},
};

/// A run's circumstances.
pub(crate) type Machine = [(&'static str, String)];

/// Lines of cells, the first of which is the heading.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self(vec![heading.map(str::to_owned).to_vec()])
    }

    fn text(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.0
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (nth, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // What is said in words begins at the left, figures end at the right.
                if nth == 0 {
                    let _ = write!(line, "{cell:<width$}");
                } else {
                    let _ = write!(line, "  {cell:>width$}");
                }
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        for (nth, row) in self.0.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if nth == 0 {
                let rest = "---:|".repeat(row.len().saturating_sub(1));
                let _ = writeln!(text, "|---|{rest}");
            }
        }
        text
    }
}

/// A figure as people read it: three digits that count, thousands apart.
fn figure(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn spread(summary: &Summary) -> String {
    format!("{}–{}", figure(summary.min), figure(summary.max))
}

fn median(samples: &Samples) -> String {
    samples
        .summary()
        .map_or_else(|| "–".to_owned(), |summary| figure(summary.median))
}

fn costs(figures: &Figures) -> Table {
    let mut table = Table::new([
        "packet",
        "ns",
        "lowest–highest",
        "floor",
        "restore",
        "× floor",
        "× floor, net",
        "not counted",
        "× not counted, net",
    ]);
    for (name, cost) in &figures.costs {
        table.0.push(vec![
            name.clone(),
            median(&cost.real),
            cost.real
                .summary()
                .map_or_else(|| "failed".to_owned(), |summary| spread(&summary)),
            median(&cost.floor),
            median(&cost.restore),
            times(cost.ratio()),
            times(cost.net_ratio()),
            median(&cost.uncounted),
            times(cost.counting_ratio()),
        ]);
    }
    table
}

fn scene(figures: &Figures, scene: Scene) -> Table {
    let mut table = Table::new([
        "proxy",
        "services",
        "median",
        "lowest–highest",
        "MAD",
        "ns each",
        "× none",
        "× nftables",
        "× iptables",
    ]);
    for proxy in Proxy::ALL {
        for ((of, services, measured), outcome) in &figures.lab {
            if *of != scene || *measured != proxy {
                continue;
            }
            let ratio = |other| times(figures.ratio(scene, *services, proxy, other));
            let row = match outcome.samples.summary() {
                Some(summary) => vec![
                    figure(summary.median),
                    spread(&summary),
                    figure(summary.mad),
                    figure(1e9 / summary.median),
                    ratio(Proxy::None),
                    ratio(Proxy::Nftables),
                    ratio(Proxy::Iptables),
                ],
                None => ["failed", "–", "–", "–", "–", "–", "–"]
                    .map(str::to_owned)
                    .to_vec(),
            };
            let heading = [proxy.name().to_owned(), services.to_string()];
            table.0.push(heading.into_iter().chain(row).collect());
        }
    }
    table
}

fn control(control: &Control) -> Table {
    let mut table = Table::new(["services", "endpoints", "", "figure"]);
    let ms = |hundredths| {
        control
            .changes
            .percentile(hundredths)
            .map_or_else(|| "–".to_owned(), figure)
    };
    let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
    let rows = [
        ("from start to ready, empty kernel, s", seconds(control.ready)),
        ("memory then, MB", figure(control.memory.resident)),
        ("of that allocated, MB", figure(control.memory.own)),
        ("peak, MB", figure(control.memory.peak)),
        (
            "from start to ready, kernel as it was left, s",
            seconds(control.ready_again),
        ),
        ("memory then, MB", figure(control.memory_again.resident)),
        ("of that allocated, MB", figure(control.memory_again.own)),
        ("peak, MB", figure(control.memory_again.peak)),
        ("endpoint change in the kernel, median, ms", ms(50)),
        ("p99, ms", ms(99)),
        ("longest, ms", ms(100)),
    ];
    for (what, value) in rows {
        let counts = [control.services, control.endpoints].map(|count| count.to_string());
        table
            .0
            .push(counts.into_iter().chain([what.to_owned(), value]).collect());
    }
    table
}

fn goals(figures: &Figures) -> Table {
    let mut table = Table::new(["target", "figure", "met"]);
    for target in targets(figures) {
        let met = match target.figure {
            None => "not measured",
            Some(_) if target.met => "yes",
            Some(_) => "no",
        };
        table
            .0
            .push(vec![target.goal, times(target.figure), met.to_owned()]);
    }
    table
}

/// All tables with their headings.
fn tables(figures: &Figures) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    if !figures.costs.is_empty() {
        tables.push(("ns per packet, by BPF_PROG_TEST_RUN".to_owned(), costs(figures)));
    }
    for of in Scene::ALL {
        if figures.lab.keys().any(|(scene, ..)| *scene == of) {
            tables.push((of.to_string(), scene(figures, of)));
        }
    }
    if let Some(figures) = &figures.control {
        tables.push(("The agent with a large cluster".to_owned(), control(figures)));
    }
    tables.push(("Targets".to_owned(), goals(figures)));
    tables
}

fn remarks(figures: &Figures) -> Vec<String> {
    let missing = figures.missing().into_iter();
    missing.map(|what| format!("no figure: {what}")).collect()
}

/// The tables for people.
pub(crate) fn text(machine: &Machine, figures: &Figures) -> String {
    let mut text = String::new();
    for (name, value) in machine {
        let _ = writeln!(text, "{name:<16} {value}");
    }
    for (heading, table) in tables(figures) {
        let _ = write!(text, "\n{heading}\n{}", table.text());
    }
    for remark in remarks(figures) {
        let _ = writeln!(text, "\n{remark}");
    }
    text
}

/// The tables of docs/benchmarks.md.
pub(crate) fn markdown(machine: &Machine, figures: &Figures) -> String {
    let mut text = String::new();
    for (name, value) in machine {
        let _ = writeln!(text, "- {name}: `{value}`");
    }
    for (heading, table) in tables(figures) {
        let _ = write!(text, "\n### {heading}\n\n{}", table.markdown());
    }
    for remark in remarks(figures) {
        let _ = writeln!(text, "\n{remark}");
    }
    text
}

fn values(samples: &Samples) -> Value {
    let summary = samples.summary().map(|summary| {
        json!({
            "median": summary.median,
            "min": summary.min,
            "max": summary.max,
            "mad": summary.mad,
            "count": summary.count,
        })
    });
    json!({ "summary": summary, "rounds": samples.values() })
}

fn control_values(control: &Control) -> Value {
    let memory =
        |memory: &Memory| json!({ "resident": memory.resident, "own": memory.own, "peak": memory.peak });
    json!({
        "services": control.services,
        "endpoints": control.endpoints,
        "ready_s": control.ready.as_secs_f64(),
        "memory_mb": memory(&control.memory),
        "ready_again_s": control.ready_again.as_secs_f64(),
        "memory_again_mb": memory(&control.memory_again),
        "change_ms": values(&control.changes),
        "change_p99_ms": control.changes.percentile(99),
    })
}

/// All figures.
pub(crate) fn json(machine: &Machine, figures: &Figures) -> Value {
    let machine: serde_json::Map<String, Value> = machine
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let costs: Vec<Value> = figures
        .costs
        .iter()
        .map(|(name, cost)| {
            json!({
                "packet": name,
                "ns": values(&cost.real),
                "floor": values(&cost.floor),
                "restore": values(&cost.restore),
                "not_counted": values(&cost.uncounted),
                "ratio": cost.ratio(),
                "net_ratio": cost.net_ratio(),
                "counting_ratio": cost.counting_ratio(),
                "failures": cost.failures,
            })
        })
        .collect();
    let lab: Vec<Value> = figures
        .lab
        .iter()
        .map(|((scene, services, proxy), outcome)| {
            json!({
                "scene": scene.key(),
                "services": services,
                "proxy": proxy.name(),
                "per_second": values(&outcome.samples),
                "failures": outcome.failures,
            })
        })
        .collect();
    let targets: Vec<Value> = targets(figures)
        .into_iter()
        .map(|target| json!({ "goal": target.goal, "figure": target.figure, "met": target.met }))
        .collect();
    json!({
        "machine": machine,
        "ns_per_packet": costs,
        "lab": lab,
        "control": figures.control.as_ref().map(control_values),
        "targets": targets,
        "missing": figures.missing(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_with_their_thousands_apart() {
        for (value, text) in [
            (3.16, "3.2"),
            (99.96, "100.0"),
            (100.0, "100"),
            (1234.5, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn tables_have_as_many_cells_in_each_row_as_in_their_heading() {
        let mut figures = Figures::default();
        figures
            .costs
            .push(("established".to_owned(), super::super::figures::Cost::default()));
        for of in Scene::ALL {
            for proxy in Proxy::ALL {
                let mut outcome = super::super::figures::Outcome::default();
                if proxy != Proxy::Iptables {
                    outcome.samples.push(1000.0);
                }
                figures.lab.insert((of, 10, proxy), outcome);
            }
        }
        figures.control = Some(Control::default());
        for (heading, table) in tables(&figures) {
            let cells = table.0[0].len();
            assert!(
                table.0.len() > 1 && table.0.iter().all(|row| row.len() == cells),
                "{heading}"
            );
        }
        assert_eq!(figures.missing().len(), 1 + Scene::ALL.len());
    }
}
