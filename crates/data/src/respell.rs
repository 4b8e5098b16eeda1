//! Texts of rows in another spelling: rules of Arabic, and transliteration.

use std::path::Path;

use serde_json::Value;

use crate::Note;
use crate::Row;
use crate::arabic;
use crate::arabic::Rules;
use crate::copied::copied_row;
use crate::copied::folder_of;
use crate::manifests::Manifests;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::stop::Stop;

/// Field of a row that states its transliteration.
const TRANSLITERATION: &str = "transliteration";

/// Change of spelling.
pub struct Respelling {
    /// Rules of Arabic spelling.
    pub rules: Rules,
    /// Transliteration before the rules or after them.
    pub buckwalter: Option<Direction>,
}

/// Direction of a transliteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From Buckwalter's Latin letters to Arabic, before the rules.
    From,
    /// To Buckwalter's Latin letters, after the rules.
    To,
}

/// Counts of what became of rows.
#[derive(Default)]
pub struct Counts {
    /// Rows that were written.
    pub rows: u64,
    /// Rows whose transcript changed.
    pub changed: u64,
    /// What the user should know of the manifests.
    pub notes: Vec<Note>,
}

impl Respelling {
    /// Writes a manifest of the rows in their new spelling.
    ///
    /// # Errors
    /// A row that cannot be read or changed; the disk's; the user asked to stop.
    pub fn write(&self, manifests: &Manifests, out: &Path, stop: &Stop) -> Result<Counts> {
        let folder = folder_of(out);
        let mut draft = Draft::new(out)?;
        let mut counts = Counts::default();
        for manifest in &manifests.paths {
            let notes = manifests.source(manifest).stream(&mut |streamed| {
                stop.check_unwritten()?;
                let place = format!("{}:{}", streamed.file.display(), streamed.line);
                let mut row = streamed.row.map_err(|bad| bad.error.at(&place))?;
                let before = row.text.clone();
                self.change(&mut row).map_err(|e| e.at(&place))?;
                counts.rows += 1;
                counts.changed += u64::from(row.text != before);
                draft.append(&copied_row(&row, folder)?)
            })?;
            for note in notes {
                note.add_to(&mut counts.notes);
            }
        }
        draft.commit()?;
        Ok(counts)
    }

    fn change(&self, row: &mut Row) -> Result<()> {
        if self.buckwalter == Some(Direction::From) {
            transliterate(row, arabic::from_buckwalter)?;
            state(row, None);
        }
        self.rules.apply_to(row)?;
        if self.buckwalter == Some(Direction::To) {
            transliterate(row, arabic::to_buckwalter)?;
            state(row, Some("buckwalter"));
        }
        Ok(())
    }
}

fn transliterate(row: &mut Row, change: fn(&str) -> Result<String>) -> Result<()> {
    let texts = [&mut row.text, &mut row.summary, &mut row.target];
    for text in texts.into_iter().flatten().chain(&mut row.references) {
        *text = change(text)?.into();
    }
    Ok(())
}

/// States in the row which letters its texts are in.
fn state(row: &mut Row, transliteration: Option<&str>) {
    let mut extra = row.extra_fields();
    match transliteration {
        Some(name) => extra.insert(TRANSLITERATION.to_owned(), name.into()),
        None => extra.shift_remove(TRANSLITERATION),
    };
    row.extra = (!extra.is_empty()).then(|| Value::Object(extra).to_string().into());
}
