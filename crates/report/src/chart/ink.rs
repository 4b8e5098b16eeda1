//! Colours by their part in a picture, each for light and for dark paper.
//!
//! Inside a page a colour is a CSS variable, so one picture serves both; in a file of its own it is
//! written out. The series differ for readers with any of the three colour deficiencies, and from
//! the paper by 3 to 1 at least.

/// What a colour is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// The n-th of several things that are compared; after [`NUM_SERIES`] they come again.
    Series(usize),
    /// What lies under everything.
    Paper,
    /// What is read.
    Text,
    /// What is read second.
    Muted,
    /// Lines that guide the eye.
    Grid,
    /// Areas that set apart.
    Shade,
    /// Full strength of a heat map, and of its positive half where it has two.
    Heat,
    /// Full strength of the negative half.
    Cold,
    /// Text on a cell of nearly full strength.
    OnHeat,
    /// What is right, or better.
    Good,
    /// What is wrong, or worse.
    Bad,
}

/// Number of different colours of series.
pub const NUM_SERIES: usize = 8;

/// The tasks that ship, each with the colour that it has on every page and in every figure.
const TASKS: [&str; 4] = ["asr", "dialect", "emotion", "summarization"];

/// The series of each task, in the order of `tasks`: the same on every page for the tasks that
/// ship; other tasks take the series that are left, in the order of their names.
pub fn of_tasks(tasks: &[String]) -> Vec<usize> {
    let shipped = |task: &String| TASKS.iter().position(|known| known == task);
    let mut others: Vec<&String> = tasks
        .iter()
        .filter(|task| shipped(task).is_none())
        .collect();
    others.sort();
    others.dedup();
    let taken: Vec<usize> = tasks.iter().filter_map(shipped).collect();
    // Those that no task of these has, then all once more.
    let free: Vec<usize> = (0..NUM_SERIES)
        .cycle()
        .skip(TASKS.len())
        .take(NUM_SERIES)
        .filter(|series| !taken.contains(series))
        .collect();
    let of = |task: &String| {
        shipped(task).unwrap_or_else(|| {
            let place = others.iter().position(|other| *other == task).unwrap_or(0);
            free[place % free.len()]
        })
    };
    tasks.iter().map(of).collect()
}

/// For light paper and for dark, in the order of the series.
const SERIES: [(&str, &str); NUM_SERIES] = [
    ("#395cc0", "#668ff3"),
    ("#bf5300", "#f06b00"),
    ("#009067", "#53d18c"),
    ("#9d2594", "#c07ca3"),
    ("#b78e00", "#f3de3c"),
    ("#7d91d0", "#aeeaff"),
    ("#7a2a1e", "#b1564b"),
    ("#685c58", "#b4b2e4"),
];

/// The other colours with the names of their variables.
const OTHERS: [(Colour, &str, &str, &str); 10] = [
    (Colour::Paper, "paper", "#ffffff", "#14171a"),
    (Colour::Text, "text", "#1c2126", "#e6e8ea"),
    (Colour::Muted, "muted", "#5c656e", "#9aa4ae"),
    (Colour::Grid, "grid", "#dfe3e7", "#30363c"),
    (Colour::Shade, "shade", "#f3f5f7", "#1d2226"),
    (Colour::Heat, "heat", "#1d4e9e", "#7fb0ff"),
    (Colour::Cold, "cold", "#b24400", "#ff9a57"),
    (Colour::OnHeat, "on-heat", "#ffffff", "#0d1013"),
    (Colour::Good, "good", "#0b7a52", "#4fd19a"),
    (Colour::Bad, "bad", "#b3321f", "#ff8a73"),
];

/// How colours are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// As variables of the page.
    Page,
    /// As numbers for light paper; [`dark_rules`] change them on dark screens.
    File,
}

impl Ink {
    /// The colour as SVG and CSS take it.
    pub fn of(self, colour: Colour) -> String {
        match self {
            Self::Page => format!("var(--{})", name(colour)),
            Self::File => values(colour).0.to_owned(),
        }
    }
}

/// The declarations of all variables, for light paper or for dark.
pub fn variables(is_dark: bool) -> String {
    let mut declarations = String::new();
    for colour in every_colour() {
        let (light, dark) = values(colour);
        let value = if is_dark { dark } else { light };
        declarations += &format!("--{}:{value};", name(colour));
    }
    declarations
}

/// Rules that give a picture in a file of its own the colours for dark paper, where the reader's
/// screen is dark.
///
/// The picture keeps its colours as attributes, so that a program that knows no style sheets shows
/// it on light paper.
pub fn dark_rules() -> String {
    let mut seen = Vec::new();
    let mut rules = String::new();
    for colour in every_colour() {
        let (light, dark) = values(colour);
        if seen.contains(&light) {
            continue;
        }
        seen.push(light);
        rules += &format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    format!("@media (prefers-color-scheme:dark){{{rules}}}")
}

fn every_colour() -> impl Iterator<Item = Colour> {
    (0..NUM_SERIES)
        .map(Colour::Series)
        .chain(OTHERS.map(|(colour, ..)| colour))
}

fn name(colour: Colour) -> String {
    match OTHERS.iter().find(|(known, ..)| *known == colour) {
        Some((_, name, ..)) => (*name).to_owned(),
        None => format!("series-{}", series(colour) + 1),
    }
}

/// For light paper and for dark.
fn values(colour: Colour) -> (&'static str, &'static str) {
    match OTHERS.iter().find(|(known, ..)| *known == colour) {
        Some((_, _, light, dark)) => (light, dark),
        None => SERIES[series(colour)],
    }
}

fn series(colour: Colour) -> usize {
    match colour {
        Colour::Series(i) => i % NUM_SERIES,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rgb = [f64; 3];

    /// Dichromatic vision in linear RGB. Source: Machado, Oliveira and Fernandes 2009, table 1,
    /// severity 1.0.
    const DEFICIENCIES: [[Rgb; 3]; 3] = [
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ];

    fn linear(hex: &str) -> Rgb {
        std::array::from_fn(|i| {
            let value =
                f64::from(u8::from_str_radix(&hex[1 + 2 * i..3 + 2 * i], 16).unwrap()) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        })
    }

    fn times(matrix: &[Rgb; 3], v: Rgb) -> Rgb {
        std::array::from_fn(|i| (0..3).map(|j| matrix[i][j] * v[j]).sum::<f64>())
    }

    /// Oklab (Ottosson 2020), where equal distances look equally different.
    fn oklab(rgb: Rgb) -> Rgb {
        let cones = times(
            &[
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ],
            rgb.map(|v| v.clamp(0.0, 1.0)),
        );
        times(
            &[
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ],
            cones.map(f64::cbrt),
        )
    }

    fn distance(a: Rgb, b: Rgb) -> f64 {
        let a = oklab(a);
        let b = oklab(b);
        (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
    }

    /// Contrast of WCAG 2.2, section 1.4.11: 3 to 1 for what must be told apart in a picture.
    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let luminance = |c: Rgb| 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2] + 0.05;
        let a = luminance(a);
        let b = luminance(b);
        a.max(b) / a.min(b)
    }

    #[test]
    fn every_pair_of_series_is_told_apart_by_every_eye() {
        // Okabe and Ito's palette, the usual choice, reaches 0.076 by this measure; two of its
        // colours miss 3 to 1 on white.
        const LEAST: f64 = 0.085;
        for is_dark in [false, true] {
            let hex =
                |pair: &(&'static str, &'static str)| linear(if is_dark { pair.1 } else { pair.0 });
            let colours: Vec<Rgb> = SERIES.iter().map(hex).collect();
            for i in 0..NUM_SERIES {
                for j in 0..i {
                    let seen = DEFICIENCIES
                        .iter()
                        .map(|m| distance(times(m, colours[i]), times(m, colours[j])));
                    let nearest = seen.fold(distance(colours[i], colours[j]), f64::min);
                    assert!(
                        nearest > LEAST,
                        "series {i} and {j} (dark: {is_dark}): {nearest}"
                    );
                }
            }
            let paper = linear(if is_dark {
                values(Colour::Paper).1
            } else {
                values(Colour::Paper).0
            });
            for (i, colour) in colours.iter().enumerate() {
                assert!(
                    contrast(*colour, paper) >= 3.0,
                    "series {i} (dark: {is_dark})"
                );
            }
        }
    }

    #[test]
    fn text_is_read_on_its_paper() {
        // WCAG 2.2, section 1.4.3: 4.5 to 1.
        let check = |text: Colour, paper: Colour| {
            for pick in [
                |v: (&'static str, &'static str)| v.0,
                |v: (&'static str, &'static str)| v.1,
            ] {
                let ratio = contrast(linear(pick(values(text))), linear(pick(values(paper))));
                assert!(ratio >= 4.5, "{text:?} on {paper:?}: {ratio}");
            }
        };
        for text in [Colour::Text, Colour::Muted, Colour::Good, Colour::Bad] {
            check(text, Colour::Paper);
            check(text, Colour::Shade);
        }
        check(Colour::OnHeat, Colour::Heat);
        check(Colour::OnHeat, Colour::Cold);
    }

    #[test]
    fn a_task_has_one_colour_on_every_page() {
        let of = |tasks: &[&str]| {
            of_tasks(
                &tasks
                    .iter()
                    .map(|task| (*task).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&["emotion"]), [2]);
        assert_eq!(
            of(&["summarization", "asr", "emotion", "dialect"]),
            [3, 0, 2, 1]
        );
        // A task of one's own takes a colour that no other has, whatever the order.
        assert_eq!(of(&["asr", "age", "accent"]), [0, 5, 4]);
        assert_eq!(of(&["accent", "asr", "age"]), [4, 0, 5]);
        assert_eq!(
            of(&["a", "b", "c", "d", "e", "f", "g", "h"]),
            [4, 5, 6, 7, 0, 1, 2, 3]
        );
    }

    #[test]
    fn a_file_has_every_colour_for_dark_screens() {
        let rules = dark_rules();
        for colour in every_colour() {
            let (light, dark) = values(colour);
            let rule = format!("[fill=\"{light}\"]{{fill:");
            assert_eq!(rules.matches(&rule).count(), 1, "{colour:?}");
            // Two colours of one light value have dark values of which the first serves both.
            assert!(
                rules.contains(&format!("{rule}{dark}}}")) || colour == Colour::OnHeat,
                "{colour:?}"
            );
        }
    }

    #[test]
    fn colours_are_variables_in_a_page_and_numbers_in_a_file() {
        assert_eq!(
            (
                Ink::Page.of(Colour::Series(9)),
                Ink::File.of(Colour::Series(9))
            ),
            ("var(--series-2)".to_owned(), "#bf5300".to_owned())
        );
        assert!(
            variables(true).contains("--paper:#14171a;")
                && variables(false).contains("--series-8:#685c58;")
        );
    }
}
