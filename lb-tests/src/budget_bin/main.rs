//! `fairlead-budget`: what the kernel programs cost the verifier, beside what is recorded.

use anyhow::{Result, bail};
use lb_tests::budget::{self, Budget};

fn main() -> Result<()> {
    let write = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => bail!("{other} is not known; --write records what was measured"),
    };
    let measured = budget::measure()?;
    let recorded = budget::recorded().ok();
    print(&measured, recorded.as_ref());
    if write {
        budget::record(&measured)?;
        println!("written to {}", budget::path().display());
    }
    Ok(())
}

fn print(measured: &Budget, recorded: Option<&Budget>) {
    println!("Linux {}", measured.kernel);
    println!(
        "{:<22}{:>12}{:>12}{:>8}{:>10}{:>12}",
        "program", "verified", "recorded", "stack", "recorded", "before 6.8"
    );
    for (name, cost) in &measured.programs {
        let was = recorded.and_then(|budget| budget.programs.get(name));
        let text = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        println!(
            "{name:<22}{:>12}{:>12}{:>8}{:>10}{:>12}",
            cost.verified_instructions,
            text(was.map(|cost| cost.verified_instructions)),
            cost.stack,
            text(was.map(|cost| cost.stack)),
            cost.stack_before_6_8,
        );
    }
}
