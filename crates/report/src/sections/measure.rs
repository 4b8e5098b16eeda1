//! How much room a text takes before any font is known, and how labels share a line without
//! touching.

/// Width of a text in the units of `size`, the height of its font.
///
/// An estimate on the safe side for the sans-serif fonts of [`FONTS`]: no font is at hand when a
/// picture is written.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(char_width).sum::<f64>() * size
}

/// The fonts of pictures and pages: what the reader's system has, Arabic included.
pub const FONTS: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Helvetica Neue',Arial,'Noto Sans Arabic','Geeza Pro',Tahoma,sans-serif";

/// Width of a character, in heights of the font.
fn char_width(c: char) -> f64 {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{64b}'..='\u{65f}'
        | '\u{670}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2066}'..='\u{2069}' => 0.0,
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 0.32,
        ' ' | 'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' | '\u{202f}' | '"' => 0.4,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.95,
        'A'..='Z' => 0.7,
        '0'..='9' => 0.6,
        '⁰'..='⁾' | '²' | '³' | '¹' => 0.4,
        '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' | '\u{fb50}'..='\u{feff}' => 0.6,
        '\u{1100}'..='\u{11ff}'
        | '\u{2e80}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{1f000}'..='\u{1faff}' => 1.1,
        _ => 0.6,
    }
}

/// The text, or as much of its beginning as `width` has room for, with an ellipsis; whoever
/// shortens a name shows the whole elsewhere.
pub fn fit(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = size;
    for c in text.chars() {
        used += char_width(c) * size;
        if used > width {
            break;
        }
        kept.push(c);
    }
    format!("{}…", kept.trim_end())
}

/// Moves places apart until neighbours are at least `gap` from each other and all lie in
/// `[low, high]`, as little as can be.
///
/// The order is kept, the sum of squared moves least: neighbours that would touch share their mean
/// place (pool adjacent violators). Where there is no room for all, they are spread evenly and
/// touch.
pub fn spread(places: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let room = (high - low).max(0.0);
    let gap = if places.len() > 1 {
        gap.min(room / (places.len() - 1) as f64)
    } else {
        gap
    };
    // With the i-th place moved back by i gaps, "apart" becomes "in order".
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (i, &which) in order.iter().enumerate() {
        let mut block = (places[which] - i as f64 * gap, 1);
        while let Some(&(before, size)) = blocks.last().filter(|(before, _)| *before > block.0) {
            blocks.pop();
            block = (
                (before * size as f64 + block.0 * block.1 as f64) / (size + block.1) as f64,
                size + block.1,
            );
        }
        blocks.push(block);
    }
    let last = low.max(high - gap * places.len().saturating_sub(1) as f64);
    let moved = blocks
        .iter()
        .flat_map(|&(place, size)| std::iter::repeat_n(place.clamp(low, last), size));
    let mut spread = vec![0.0; places.len()];
    for (i, (place, &which)) in moved.zip(&order).enumerate() {
        spread[which] = place + i as f64 * gap;
    }
    spread
}

/// The first of several rows in which a stretch has room, given where each row ends; opens a row
/// where none has.
pub fn first_free_row(rows: &mut Vec<f64>, start: f64, end: f64) -> usize {
    match rows.iter().position(|taken| *taken <= start) {
        Some(row) => {
            rows[row] = end;
            row
        }
        None => {
            rows.push(end);
            rows.len() - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moved_apart_and_no_further() {
        assert_eq!(spread(&[10.0, 50.0], 14.0, 0.0, 100.0), [10.0, 50.0]);
        // Two that coincide move by half the gap each; a third that is far stays.
        assert_eq!(
            spread(&[50.0, 50.0, 90.0], 14.0, 0.0, 100.0),
            [43.0, 57.0, 90.0]
        );
        assert_eq!(spread(&[99.0, 98.0], 14.0, 0.0, 100.0), [100.0, 86.0]);
        assert_eq!(spread(&[], 14.0, 0.0, 100.0), [0.0; 0]);
    }

    #[test]
    fn any_labels_are_apart_inside_and_in_order() {
        let key = maqam_base::seed::Key::new(0, "labels");
        for round in 0..500 {
            let key = key.with(round);
            let places: Vec<f64> = (0..1 + key.below(0, 12))
                .map(|i| (200.0 * key.uniform(1 + i as u64)).round())
                .collect();
            let moved = spread(&places, 14.0, 0.0, 200.0);
            let mut order: Vec<usize> = (0..places.len()).collect();
            order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
            for pair in order.windows(2) {
                assert!(
                    moved[pair[1]] - moved[pair[0]] >= 14.0 - 1e-9,
                    "{places:?} -> {moved:?}"
                );
            }
            assert!(
                moved
                    .iter()
                    .all(|place| (-1e-9..=200.0 + 1e-9).contains(place)),
                "{places:?} -> {moved:?}"
            );
        }
    }

    #[test]
    fn a_long_name_is_shortened_to_its_room() {
        assert_eq!(fit("emotion", 12.0, 100.0), "emotion");
        let short = fit("a name far too long for its place", 12.0, 100.0);
        assert!(
            short.ends_with('…') && text_width(&short, 12.0) <= 100.0,
            "{short}"
        );
    }

    #[test]
    fn names_that_would_touch_take_rows_of_their_own() {
        let mut rows = Vec::new();
        assert_eq!(
            [(0.0, 40.0), (30.0, 70.0), (45.0, 90.0)]
                .map(|(start, end)| first_free_row(&mut rows, start, end)),
            [0, 1, 0]
        );
    }
}
