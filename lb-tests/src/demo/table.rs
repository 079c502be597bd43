//! The table of who answered how often.

use std::collections::{BTreeMap, BTreeSet};

/// Who should answer.
#[derive(Clone, Debug)]
pub(crate) struct Expected(BTreeSet<String>);

impl Expected {
    /// All of these, and nobody else.
    pub(crate) fn spread(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

struct Row {
    who: String,
    what: String,
    answers: BTreeMap<String, u32>,
    good: bool,
}

/// Rows of who asked what and who answered.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn row(&mut self, who: &str, what: &str, answers: BTreeMap<String, u32>, expected: &Expected) {
        let good = answers.keys().eq(&expected.0);
        self.0.push(Row {
            who: who.to_owned(),
            what: what.to_owned(),
            answers,
            good,
        });
    }

    pub(crate) fn failures(&self) -> u32 {
        self.0.iter().filter(|row| !row.good).count() as u32
    }

    pub(crate) fn print(&self) {
        let width = |text: fn(&Row) -> &str| {
            self.0
                .iter()
                .map(|row| text(row).chars().count())
                .max()
                .unwrap_or(0)
        };
        let (who, what) = (width(|row| &row.who), width(|row| &row.what));
        println!();
        for row in &self.0 {
            let answers: Vec<String> = row
                .answers
                .iter()
                .map(|(name, times)| format!("{name} ×{times}"))
                .collect();
            let mark = if row.good { "ok  " } else { "FAIL" };
            println!(
                "  {mark} {:who$}  {:what$}  {}",
                row.who,
                row.what,
                answers.join("   ")
            );
        }
    }
}
