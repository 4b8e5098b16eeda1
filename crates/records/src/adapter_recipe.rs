//! The recipe that an adapter was trained by, and what commands take from it.

use std::path::Path;
use std::path::PathBuf;

use crate::merged_adapter::sources;
use crate::recipe_keys::RecipeKeys;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The folder of task files that a command uses: `given`, or else the `prompts` of the recipes that
/// trained the adapters, or those that they were merged of; `None` where no recipe has any.
///
/// # Errors
/// Recipes that name different folders; a folder that is not there; a recipe that is broken; a
/// source of a merge that is gone.
pub fn prompts_of<'a>(
    given: Option<&Path>,
    adapters: impl IntoIterator<Item = &'a Path>,
) -> Result<Option<PathBuf>> {
    if given.is_some() {
        return Ok(given.map(Path::to_owned));
    }
    let mut trained = Vec::new();
    for adapter in adapters {
        let sources = sources(adapter).map_err(|error| {
            error.or_hint("put that adapter back, correct its path there, or give the folder of its task files with --prompts")
        })?;
        trained.extend(sources);
    }
    let mut found: Option<(PathBuf, PathBuf)> = None;
    for adapter in &trained {
        let Some(recipe) = recipe_of(adapter) else {
            continue;
        };
        let settings = RecipeKeys::read(&recipe)?;
        let Some(folder) = settings.get("prompts").map(PathBuf::from) else {
            continue;
        };
        if !folder.is_dir() {
            let missing = format!("`prompts: {}` is not a folder here", folder.display());
            return Err(Error::input(missing)
                .at_path(&recipe)
                .hint("give the folder of its task files with --prompts"));
        }
        match &found {
            Some((other, first)) if *other != folder => {
                let differ = format!(
                    "`prompts: {}`, but {} has `prompts: {}`",
                    folder.display(),
                    first.display(),
                    other.display()
                );
                return Err(Error::input(differ)
                    .at_path(&recipe)
                    .hint("give the folder that all answer by with --prompts"));
            }
            Some(_) => {}
            None => found = Some((folder, recipe)),
        }
    }
    Ok(found.map(|(folder, _)| folder))
}

/// The recipe of the run that an adapter lies in: `RUN/best`, `RUN/checkpoints/step-000200`, or the
/// run's own folder.
pub fn recipe_of(adapter: &Path) -> Option<PathBuf> {
    let whole = adapter.canonicalize().ok()?;
    let recipes = whole
        .ancestors()
        .take(3)
        .map(|folder| folder.join("recipe.yaml"));
    recipes.into_iter().find(|recipe| recipe.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A run with an adapter, whose recipe says `more`; the adapter.
    fn run(dir: &Path, name: &str, more: &str) -> PathBuf {
        let adapter = dir.join(name).join("checkpoints/step-000010");
        fs::create_dir_all(&adapter).unwrap();
        fs::write(
            dir.join(name).join("recipe.yaml"),
            format!("name: {name}\n{more}"),
        )
        .unwrap();
        adapter
    }

    #[test]
    fn the_folder_is_that_of_the_adapters_run() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ours");
        fs::create_dir(&ours).unwrap();
        let says = format!("prompts: {}\n", ours.display());
        let with = run(dir.path(), "with", &says);
        let without = run(dir.path(), "without", "");
        let both = [with.as_path(), without.as_path()];
        assert_eq!(prompts_of(None, both).unwrap(), Some(ours.clone()));
        assert_eq!(prompts_of(None, [without.as_path()]).unwrap(), None);
        assert_eq!(
            prompts_of(Some(Path::new("x")), both).unwrap(),
            Some(PathBuf::from("x"))
        );
        assert_eq!(prompts_of(None, [dir.path()]).unwrap(), None, "no run");

        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let odd = run(
            dir.path(),
            "odd",
            &format!("prompts: {}\n", other.display()),
        );
        let error = prompts_of(None, [with.as_path(), odd.as_path()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("but ") && error.contains("hint: give"),
            "{error}"
        );
        let gone = run(dir.path(), "gone", "prompts: nowhere/at/all\n");
        let error = prompts_of(None, [gone.as_path()]).unwrap_err().to_string();
        assert!(
            error.contains("`prompts: nowhere/at/all` is not a folder"),
            "{error}"
        );
    }
}
