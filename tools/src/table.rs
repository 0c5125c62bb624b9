//! Plain text tables: the first columns to the left, numbers to the right.

/// Lays `rows` out under `heads`. The first `left` columns are words, the others numbers.
pub(crate) fn render(heads: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |text| text.chars().count());
    let width = |column: usize| {
        let widest = rows.iter().map(|row| cell(row, column)).max().unwrap_or(0);
        widest.max(heads[column].chars().count())
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (column, text) in cells.into_iter().enumerate() {
            let width = widths[column];
            let padded = if column < left { format!("{text:<width$}") } else { format!("{text:>width$}") };
            out += if column == 0 { "" } else { "  " };
            out += &padded;
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(heads.to_vec());
    for row in rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

/// A count or rate short enough for a column: three significant digits below a thousand, whole above.
pub(crate) fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v < 0.005 => "<0.01".to_owned(),
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => grouped(value.round() as u64),
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_numbers_right() {
        let rows = vec![vec!["ctx".into(), "7".into()], vec!["syscall".into(), "1,234".into()]];
        assert_eq!(render(&["what", "ops"], 1, &rows), "what       ops\nctx          7\nsyscall  1,234\n");
    }

    #[test]
    fn numbers_keep_what_matters() {
        let seen = [0.0, 0.001, 2.0, 0.5, 12.34, 123.4, 1234567.0].map(number);
        assert_eq!(seen, ["0", "<0.01", "2.00", "0.50", "12.3", "123", "1,234,567"]);
    }
}
