//! What a run's folder says, shown: charts, tables, one page that opens offline; runs side by side.
//!
//! The line: a folder is read ([`crate::records::run_folder`]), sections say one thing each about a run ([`chapter`]) or about several ([`several`]), a
//! [`page::Page`] holds them. Callers with something of their own to show build [`figure::Figure`], [`table::Table`] and
//! [`page::Section`] themselves; a figure is written as a file by [`figure::Figure::file`].

pub mod alignment;
pub mod answers;
pub mod bars;
pub mod chapter;
pub mod clips;
pub mod compare;
pub mod curves;
pub mod escape;
pub mod evaluation;
pub mod failures;
pub mod figure;
pub mod gradients;
pub mod header;
pub mod heat;
pub mod ink;
pub mod lines;
pub mod measure;
pub mod metric;
pub mod mixture;
pub mod number;
pub mod page;
pub mod provenance;
pub mod resampled;
pub mod rescore;
pub mod scale;
pub mod scatter;
pub mod scores;
pub mod several;
pub mod slices;
pub mod spark;
pub mod standing;
pub mod svg;
pub mod table;
pub mod timeline;
pub mod uncertainty;
pub mod utterance;
pub mod worst;

use crate::error::Result;
use crate::records::run_folder::Run;
use crate::report::chapter::Audio;
use crate::report::chapter::Chapter;
use crate::report::page::Block;
use crate::report::page::Page;
use crate::report::page::Section;
use crate::report::uncertainty::Uncertainty;

/// Where the audio of a run's rows is found: run, set, row.
pub type AudioOf<'a> = dyn Fn(&Run, &str, &str) -> Result<Option<String>> + 'a;

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
        gradients::section(&chapter),
        answers::section(&chapter)?,
        slices::section(&chapter),
        worst::section(&chapter)?,
        header::recipe(run, chapter.id("recipe")),
        provenance::section(run, &chapter.id("provenance"), prefix),
    ])
}
