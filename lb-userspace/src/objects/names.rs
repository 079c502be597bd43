//! Texts that many objects share, stored once.

use std::{collections::HashSet, sync::Arc};

/// Texts that are in use. Those that nobody else has any more are forgotten now and then.
#[derive(Debug, Default)]
pub struct Names {
    texts: HashSet<Arc<str>>,
    /// How many texts there were after the last sweep.
    swept: usize,
}

/// Fewer texts than this are not worth a sweep.
const LEAST: usize = 1_024;

impl Names {
    /// The shared text that is the same as this one.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        // Sweeps when the texts have doubled: the cost is that of inserting them.
        if self.texts.len() >= LEAST.max(2 * self.swept) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.swept = self.texts.len();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_stored_once_and_forgotten_when_nobody_has_it() {
        let mut names = Names::default();
        let kept = names.get("node1");
        assert!(Arc::ptr_eq(&kept, &names.get("node1")));
        for i in 0..10 * LEAST {
            names.get(&i.to_string());
        }
        assert!(names.texts.len() <= 2 * LEAST, "{}", names.texts.len());
        assert!(Arc::ptr_eq(&kept, &names.get("node1")));
    }
}
