//! Tables for a terminal and for Markdown.

use std::fmt::Write;

/// Where the text of a column stands in its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table with a header and rows of text; every row has as many cells as the header.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns, all aligned left until [`Table::right`] says otherwise.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        let header: Vec<String> = header.into_iter().map(Into::into).collect();
        let align = vec![Align::Left; header.len()];
        Self {
            header,
            align,
            rows: Vec::new(),
        }
    }

    /// Aligns the named columns (by index) to the right, as numbers are.
    pub fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(align) = self.align.get_mut(column) {
                *align = Align::Right;
            }
        }
        self
    }

    /// Adds a row; missing cells are empty and surplus cells are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut row: Vec<String> = cells
            .into_iter()
            .map(Into::into)
            .take(self.header.len())
            .collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .header
            .iter()
            .map(|cell| cell.chars().count())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::from("|");
        for ((cell, &width), align) in cells.iter().zip(widths).zip(&self.align) {
            let pad = " ".repeat(width - cell.chars().count());
            let _ = match align {
                Align::Left => write!(line, " {cell}{pad} |"),
                Align::Right => write!(line, " {pad}{cell} |"),
            };
        }
        line
    }

    /// The table as Markdown, padded so that it also reads well in a terminal. Ends without a line
    /// break.
    pub fn markdown(&self) -> String {
        let widths = self.widths();
        let mut text = self.line(&self.header, &widths);
        text.push_str("\n|");
        for (&width, align) in widths.iter().zip(&self.align) {
            let dashes = "-".repeat(width + 1);
            let _ = match align {
                Align::Left => write!(text, "{dashes}-|"),
                Align::Right => write!(text, "{dashes}:|"),
            };
        }
        for row in &self.rows {
            text.push('\n');
            text.push_str(&self.line(row, &widths));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["Task", "Value"]).right(&[1]);
        table.row(["agnews", "0.8"]);
        table.row(["é", "12.25"]);
        let expected =
            "| Task   | Value |\n|--------|------:|\n| agnews |   0.8 |\n| é      | 12.25 |";
        assert_eq!(table.markdown(), expected);
    }
}
