//! The page of a run, or of several side by side.

use crate::chart::figure;
use crate::clips::AudioOf;
use crate::compare;
use crate::page::Block;
use crate::page::Page;
use crate::page::Section;
use crate::sections::answers;
use crate::sections::chapter::Audio;
use crate::sections::chapter::Chapter;
use crate::sections::curves;
use crate::sections::gradients;
use crate::sections::header;
use crate::sections::mixture;
use crate::sections::online;
use crate::sections::provenance;
use crate::sections::scores;
use crate::sections::slices;
use crate::sections::worst;
use crate::several;
use crate::uncertainty::Uncertainty;
use maqam_base::error::Result;
use maqam_records::run_folder::Run;

/// The report of one run, or of several: side by side, then each by itself.
///
/// # Errors
/// Broken files, with file and line.
pub fn page(runs: &[Run], uncertainty: &dyn Uncertainty, audio: &AudioOf) -> Result<Page> {
    if let [run] = runs {
        let of_run = |set: &str, id: &str| audio(run, set, id);
        return page_of_one(run, uncertainty, &of_run);
    }
    let names = several::names(runs);
    let lines = several::lines(runs);
    let mut page = Page {
        kind: "Report".to_owned(),
        title: several::title(&names),
        subtitle: format!("{} runs", runs.len()),
        ..Page::default()
    };
    page.sections = compare::sections(runs, &names, &lines, None)?;
    for (run, name) in runs.iter().zip(&names) {
        let of_run = |set: &str, id: &str| audio(run, set, id);
        let id = format!("run-{}", figure::slug(name));
        let sections = sections(run, uncertainty, &of_run, &format!("{id}-"))?;
        let folded = sections
            .into_iter()
            .filter(|section| !section.blocks.is_empty())
            .map(|section| Block::Folded(section.title, section.blocks));
        page.sections.push(Section::new(id, name, folded.collect()));
    }
    Ok(page)
}

fn page_of_one(run: &Run, uncertainty: &dyn Uncertainty, audio: &Audio) -> Result<Page> {
    Ok(Page {
        kind: "Report".to_owned(),
        title: run.name.clone(),
        subtitle: header::subtitle(run),
        facts: header::facts(run),
        sections: sections(run, uncertainty, audio, "")?,
    })
}

/// Everything that is said about one run.
fn sections(
    run: &Run,
    uncertainty: &dyn Uncertainty,
    audio: &Audio,
    prefix: &str,
) -> Result<Vec<Section>> {
    let chapter = Chapter::open(run, uncertainty, audio, prefix)?;
    Ok(vec![
        scores::section(&chapter)?,
        curves::section(&chapter),
        mixture::section(&chapter),
        online::section(&chapter),
        gradients::section(&chapter),
        answers::section(&chapter)?,
        slices::section(&chapter),
        worst::section(&chapter)?,
        header::recipe(run, chapter.id("recipe")),
        provenance::section(run, &chapter.id("provenance"), prefix),
    ])
}
