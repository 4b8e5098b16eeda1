//! Rows that a head learns and is measured on, with their targets.

use crate::encoder::clips;
use crate::encoder::clips::Item;
use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::recipe::Recipe;
use crate::encoder::probe::units::Units;
use crate::error::Error;
use crate::error::Result;
use crate::models::hubert::config::Config;
use crate::objective::ctc;
use crate::seed::Key;

/// Training rows, then rows of dev.
pub struct HeadRows {
    /// Clips.
    pub items: Vec<Item>,
    /// Value of the field of each.
    pub texts: Vec<String>,
    /// Units of each text.
    pub targets: Vec<Vec<u32>>,
    /// Number of training rows.
    pub num_train: usize,
    /// Units of the training rows.
    pub units: Units,
}

impl HeadRows {
    /// Reads the rows of a recipe.
    ///
    /// # Errors
    /// Rows without the field; a training text that is too long for its clip under CTC.
    pub fn read(recipe: &Recipe, config: &Config) -> Result<Self> {
        let mut items = clips::read(&recipe.data, config)?;
        let num_train = items.len();
        items.extend(clips::read(&recipe.dev, config)?);
        let texts = items
            .iter()
            .map(|item| text_of(item, recipe.field()))
            .collect::<Result<Vec<_>>>()?;

        let units = Units::of(recipe.head, &texts[..num_train]);
        let targets: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| units.ids(recipe.head, text))
            .collect();
        if recipe.head == HeadKind::Ctc {
            for (item, targets) in items.iter().zip(&targets).take(num_train) {
                check_length(item, targets, config)?;
            }
        }
        Ok(Self {
            items,
            texts,
            targets,
            num_train,
            units,
        })
    }

    /// Training rows of a step, from 0: a seeded order, each once per epoch.
    pub fn drawn(&self, recipe: &Recipe, step: u64) -> Vec<usize> {
        drawn_of(recipe, step, self.num_train)
    }

    /// Runs of rows of at most so many seconds; a longer clip is alone.
    pub fn packs<'a>(&self, rows: &'a [usize], most_s: f64) -> Vec<&'a [usize]> {
        let mut packs = Vec::new();
        let mut start = 0;
        let mut seconds = 0.0;
        for (i, &row) in rows.iter().enumerate() {
            let of_row = self.items[row].seconds();
            if i > start && seconds + of_row > most_s {
                packs.push(&rows[start..i]);
                start = i;
                seconds = 0.0;
            }
            seconds += of_row;
        }
        packs.push(&rows[start..]);
        packs
    }
}

/// Places of a step's rows among so many training rows.
pub fn drawn_of(recipe: &Recipe, step: u64, num_rows: usize) -> Vec<usize> {
    let clips = recipe.batch.clips as u64;
    let rows = num_rows as u64;
    let key = Key::new(recipe.seed, "head order");
    let mut places = Vec::new();
    let mut order = Vec::new();
    let mut epoch_of_order = None;
    for position in step * clips..(step + 1) * clips {
        let epoch = position / rows;
        if epoch_of_order != Some(epoch) {
            order = key.with(epoch).permutation(num_rows);
            epoch_of_order = Some(epoch);
        }
        places.push(order[(position % rows) as usize] as usize);
    }
    places
}

/// CTC spells at most one unit per frame.
fn check_length(item: &Item, targets: &[u32], config: &Config) -> Result<()> {
    let frames = config.num_frames(item.samples);
    let least = ctc::min_frames(targets);
    if frames < least {
        return Err(
            Error::input(format!("{frames} frames cannot spell {least} units"))
                .at(item.place())
                .hint("remove the row, or correct its text"),
        );
    }
    Ok(())
}

/// The field of a row.
fn text_of(item: &Item, field: &str) -> Result<String> {
    let row = &item.row;
    let known = match field {
        "text" => row.text.as_deref(),
        "label" => row.label.as_deref(),
        "speaker" => row.speaker.as_deref(),
        "language" => row.language.as_deref(),
        "group" => row.group.as_deref(),
        _ => None,
    };
    let extra = row.extra_fields();
    known
        .or_else(|| extra.get(field).and_then(|value| value.as_str()))
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::input(format!("no `{field}`"))
                .at(item.place())
                .hint("name another `field`, or remove the row")
        })
}
