//! Sparklines: a curve as small as a word.

use crate::chart::ink::Colour;
use crate::chart::ink::Ink;
use crate::chart::scale::Axis;
use crate::chart::scale::Scale;
use crate::chart::svg::Sheet;
use crate::chart::svg::path;

const WIDTH: f64 = 88.0;
const HEIGHT: f64 = 20.0;

/// The points as a curve with a dot at its end; nothing where there are fewer than two numbers.
pub fn sparkline(points: &[(f64, f64)], ink: Ink, name: &str) -> String {
    let points: Vec<(f64, f64)> = points
        .iter()
        .copied()
        .filter(|point| point.0.is_finite() && point.1.is_finite())
        .collect();
    let (Some(&last), true) = (points.last(), points.len() > 1) else {
        return String::new();
    };
    let mut sheet = Sheet::new(WIDTH, ink);
    let x = Scale::new(
        &Axis::new(""),
        points.iter().map(|point| point.0),
        (2.0, WIDTH - 4.0),
        false,
    );
    let y = Scale::new(
        &Axis::new(""),
        points.iter().map(|point| point.1),
        (HEIGHT - 3.0, 3.0),
        false,
    );
    let drawn = crate::chart::lines::thin(&points, 200);
    sheet.stroke(
        &path(drawn.iter().map(|point| (x.at(point.0), y.at(point.1)))),
        Colour::Series(0),
        1.5,
        "",
    );
    sheet.dot(
        (x.at(last.0), y.at(last.1)),
        2.4,
        Colour::Series(0),
        false,
        "",
    );
    sheet.finish(HEIGHT, name)
}
