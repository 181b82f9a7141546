//! Tables of results, in Markdown.

use std::fmt;

/// One table of the report.
#[derive(Clone, Debug)]
pub struct Table {
    pub title: String,
    /// What the first column names, then the units of the others.
    pub columns: Vec<&'static str>,
    pub rows: Vec<Row>,
    /// What a reader must know to judge the figures.
    pub notes: Vec<String>,
}

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    /// `None` where there is nothing to measure.
    pub cells: Vec<Option<f64>>,
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds the median, cell by cell, of several runs of one row.
    pub fn row(&mut self, name: impl Into<String>, runs: &[Vec<Option<f64>>]) {
        let width = runs.iter().map(Vec::len).max().unwrap_or_default();
        let cell = |index: usize| {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.get(index).copied().flatten()).collect();
            (!values.is_empty()).then(|| median(values))
        };
        self.rows.push(Row { name: name.into(), cells: (0..width).map(cell).collect() });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n### {}\n\n| {} |", self.title, self.columns.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            let cells: Vec<String> = row.cells.iter().map(|cell| cell.map_or("-".to_owned(), figure)).collect();
            writeln!(f, "| {} | {} |", row.name, cells.join(" | "))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{note}"))
    }
}

/// The middle of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `share` of them do not exceed.
pub fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}

/// As many digits as mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_its_runs_and_gaps_stay_gaps() {
        let mut table = Table::new("Positions", &["server", "µs", "lost"]);
        table.row("ours", &[vec![Some(3.0), None], vec![Some(1.0), None], vec![Some(1_200.4), None]]);
        assert_eq!(
            table.to_string(),
            "\n### Positions\n\n| server | µs | lost |\n|---|---|---|\n| ours | 3.00 | - |\n"
        );
    }

    #[test]
    fn percentiles_are_taken_from_the_sorted_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), Some(51.0));
        assert_eq!(percentile(&mut values, 0.99), Some(99.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }
}
