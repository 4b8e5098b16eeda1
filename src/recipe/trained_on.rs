//! A suite held against what the evaluated adapters were trained on, where their run says it.

use std::path::Path;
use std::path::PathBuf;

use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::leakage;
use crate::leakage::Allowed;
use crate::leakage::Training;
use crate::recipe::Recipe;
use crate::records::adapter_recipe::recipe_of;
use crate::records::merged_adapter::sources;
use crate::records::suite_file::SuiteFile;

/// Compares the rows of a suite with those that each adapter was trained on, if it lies in the
/// folder of a run; of a merged adapter, with those of its sources. `note` is given what the user
/// should know.
///
/// # Errors
/// Leakage that is not allowed; a source of a merge that is gone, unless all leakage is allowed.
pub fn check<'a>(
    suite: &Path,
    adapters: impl Iterator<Item = (&'a str, &'a Path)>,
    allowed: &Allowed,
    headers: &Headers,
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut compared: Vec<Vec<PathBuf>> = Vec::new();
    let mut trained: Vec<(&str, PathBuf)> = Vec::new();
    for (name, folder) in adapters {
        let sources = match sources(folder) {
            Ok(sources) => sources,
            Err(error) if allowed.0.len() == Allowed::all().0.len() => {
                note(&not_compared(name, &error));
                continue;
            }
            Err(error) => {
                return Err(error.or_hint("put that adapter back, correct its path there, or evaluate without the comparison with --allow-leakage"));
            }
        };
        trained.extend(sources.into_iter().map(|source| (name, source)));
    }
    for (name, folder) in trained {
        let Some(recipe) = recipe_of(&folder) else {
            note(&format!(
                "{name} ({}) lies in no run's folder: what it was trained on is not known",
                folder.display()
            ));
            continue;
        };
        let recipe = Recipe::load(&recipe, &[])?;
        let paths: Vec<PathBuf> = recipe
            .data
            .iter()
            .map(|entry| entry.manifest.clone())
            .collect();
        if compared.contains(&paths) {
            continue;
        }
        let manifests: Result<Vec<Manifest>> = recipe
            .data
            .iter()
            .map(|entry| entry.source().read(OnBadRow::Skip))
            .collect();
        let manifests = match manifests {
            Ok(manifests) => manifests,
            Err(error) => {
                note(&not_compared(name, &error));
                continue;
            }
        };
        let notes = compare(&manifests, suite, allowed, headers)
            .map_err(|error| error.at(format!("{name} ({})", folder.display())))?;
        notes
            .iter()
            .for_each(|found| note(&format!("{name}: {found}")));
        compared.push(paths);
    }
    Ok(())
}

fn not_compared(name: &str, error: &Error) -> String {
    let message = error.message();
    format!("what {name} was trained on is not compared with the suite: {message}")
}

fn compare(
    manifests: &[Manifest],
    suite: &Path,
    allowed: &Allowed,
    headers: &Headers,
) -> Result<Vec<String>> {
    let rows = || {
        manifests
            .iter()
            .flat_map(|manifest| manifest.rows.iter().map(move |row| (manifest, row)))
    };
    let places: Vec<(&Path, u32)> = rows()
        .map(|(manifest, row)| (manifest.path.as_path(), row.line))
        .collect();
    let training = Training {
        rows: rows().map(|(_, row)| row).collect(),
        place: &|row| format!("{}:{}", places[row].0.display(), places[row].1),
    };
    leakage::check(
        &training,
        &SuiteFile::read(suite)?.rows()?,
        allowed,
        headers,
    )
}
