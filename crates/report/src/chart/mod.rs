//! Charts as SVG, and what they are drawn with: axes, colours, numbers.

pub mod bars;
pub mod dendrogram;
pub mod figure;
pub mod heat;
pub mod ink;
pub mod lines;
pub mod number;
pub mod scale;
pub mod scatter;
pub mod spark;
pub mod svg;
pub mod timeline;
