//! A line in the terminal, drawn with braille dots: two columns and four rows a character.

use std::fmt::Write;

/// A plot of `(time in seconds, value)` pairs, oldest first, with a scale at the left and times below.
pub(crate) fn plot(title: &str, points: &[(i64, f64)], columns: usize, rows: usize) -> String {
    let finite: Vec<(i64, f64)> = points
        .iter()
        .copied()
        .filter(|(_, v)| v.is_finite())
        .collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else {
        return format!("{title}: no points\n");
    };
    let low = finite.iter().map(|(_, v)| *v).fold(f64::INFINITY, f64::min);
    let high = finite
        .iter()
        .map(|(_, v)| *v)
        .fold(f64::NEG_INFINITY, f64::max);
    let span = if high > low { high - low } else { 1.0 };
    let (width, height) = (columns.max(1) * 2, rows.max(1) * 4);
    let time_span = (last.0 - first.0).max(1);
    let mut dots = vec![0_u8; columns.max(1) * rows.max(1)];
    let mut before: Option<(usize, usize)> = None;
    for (time, value) in &finite {
        let x = ((time - first.0) as f64 / time_span as f64 * (width - 1) as f64).round() as usize;
        let y = ((high - value) / span * (height - 1) as f64).round() as usize;
        // A jump is drawn as a vertical stroke, so that the line does not break.
        let from = match before {
            Some((px, py)) if x - px <= 2 => py,
            _ => y,
        };
        for row in from.min(y)..=from.max(y) {
            let bit = match (x % 2, row % 4) {
                (0, 3) => 0x40,
                (1, 3) => 0x80,
                (column, row) => 1 << (row + 3 * column),
            };
            if let Some(cell) = dots.get_mut(row / 4 * columns + x / 2) {
                *cell |= bit;
            }
        }
        before = Some((x, y));
    }
    let mut out = format!("{title}\n");
    for (row, cells) in dots.chunks(columns).enumerate() {
        let scale = match row {
            0 => format!("{high:8.1}"),
            r if r + 1 == rows => format!("{low:8.1}"),
            _ => " ".repeat(8),
        };
        let line: String = cells
            .iter()
            .map(|d| char::from_u32(0x2800 + u32::from(*d)).unwrap_or(' '))
            .collect();
        let _ = writeln!(out, "{scale} |{line}");
    }
    let (left, right) = (clock(first.0), clock(last.0));
    let gap = columns.saturating_sub(left.len() + right.len());
    let _ = writeln!(out, "{:8}  {left}{:gap$}{right}", "", "");
    out
}

/// `HH:MM` of UTC.
fn clock(time_s: i64) -> String {
    let minutes = time_s.rem_euclid(86_400) / 60;
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises() {
        let high = plot("t", &[(0, 1.0), (100, 5.0)], 40, 4);
        let lines: Vec<&str> = high.lines().collect();
        assert!(
            lines[1].starts_with("     5.0 |") && lines[4].starts_with("     1.0 |"),
            "{high}"
        );
        // The first point is at the bottom left, the last at the top right.
        assert!(
            lines[4].contains('\u{2840}') && lines[1].ends_with('\u{2808}'),
            "{high}"
        );
    }

    #[test]
    fn nothing_and_one_point() {
        assert_eq!(plot("t", &[], 10, 3), "t: no points\n");
        assert_eq!(plot("t", &[(0, f64::NAN)], 10, 3), "t: no points\n");
        assert_eq!(plot("t", &[(0, 1.0)], 10, 3).lines().count(), 5);
    }
}
