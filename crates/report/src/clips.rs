//! The audio behind a row: found through the suite's manifests, linked from the page, or put into
//! it.

use std::collections::HashMap;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use crate::page::escape;
use maqam_audio::SAMPLE_RATE;
use maqam_base::error::Result;
use maqam_data::AudioSource;
use maqam_data::Clip;
use maqam_data::OnBadRow;
use maqam_records::run_folder::Run;
use maqam_records::scores;
use maqam_records::suite_file::SuiteFile;

/// Longest clip that is put into a page, in seconds: longer ones are linked.
pub const LONGEST_EMBEDDED_S: f64 = 30.0;

/// Where the audio of a run's rows is found: run, set, row.
pub type AudioOf<'a> = dyn Fn(&Run, &str, &str) -> Result<Option<String>> + 'a;

/// Where the rows of a run's suite are heard.
#[derive(Default)]
pub struct Clips {
    by_row: HashMap<(String, String), Clip>,
}

impl Clips {
    /// Looks up the rows of a run's suite; nothing where its recipe, its suite or a manifest is not
    /// there any more.
    ///
    /// # Errors
    /// Files that are there and broken.
    pub fn of(run: &Run) -> Result<Self> {
        let Some(suite) = suite(run)?.filter(|suite| suite.is_file()) else {
            return Ok(Self::default());
        };
        let file = SuiteFile::read(&suite)?;
        let mut by_row = HashMap::new();
        for set in &file.sets {
            let source = set.source();
            // What is gone by now is left out of the page.
            if source.files().is_err() {
                continue;
            }
            for row in source.read(OnBadRow::Error)?.rows {
                if let Some(clip) = row.clips.first() {
                    by_row.insert((set.name.clone(), row.id.to_string()), clip.clone());
                }
            }
        }
        Ok(Self { by_row })
    }

    /// The address of a row's audio for a page at `page`: the sound itself where `is_embedded` and
    /// it is short, else a link to its file.
    ///
    /// # Errors
    /// Audio that cannot be read.
    pub fn address(
        &self,
        set: &str,
        id: &str,
        page: &Path,
        is_embedded: bool,
    ) -> Result<Option<String>> {
        let Some(clip) = self.by_row.get(&(set.to_owned(), id.to_owned())) else {
            return Ok(None);
        };
        if is_embedded {
            if clip.source.file().is_some_and(|(path, _)| !path.is_file()) {
                return Ok(None);
            }
            let samples = clip.source.samples(clip.span)?;
            if samples.len() as f64 <= LONGEST_EMBEDDED_S * f64::from(SAMPLE_RATE) {
                return Ok(Some(format!(
                    "data:audio/wav;base64,{}",
                    escape::base64(&wav(&samples))
                )));
            }
        }
        let AudioSource::File(path) = &clip.source else {
            return Ok(None);
        };
        Ok(path
            .is_file()
            .then(|| link(path, page, clip.span.start_s, clip.span.end_s)))
    }
}

/// The suite that a run's recipe names, or that the folder of an evaluation stands in.
fn suite(run: &Run) -> Result<Option<PathBuf>> {
    if let Some(suite) = run
        .recipe
        .as_ref()
        .and_then(|recipe| recipe.get("evaluate.suite"))
    {
        return Ok(Some(PathBuf::from(suite)));
    }
    let about = match run.folder.parent() {
        Some(folder) => scores::read_suite(folder)?,
        None => None,
    };
    let file = about.map(|about| about.file);
    Ok(file.filter(|file| !file.is_empty()).map(PathBuf::from))
}

/// A relative link from a page to a file, to the part of it that counts.
fn link(file: &Path, page: &Path, start_s: Option<f64>, end_s: Option<f64>) -> String {
    let folder = page
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // A folder that is not there yet has no canonical path.
    let whole = |path: &Path| {
        path.canonicalize()
            .or_else(|_| std::path::absolute(path))
            .unwrap_or_else(|_| path.to_owned())
    };
    let address = escape::address(&relative(&whole(file), &whole(folder)));
    match (start_s, end_s) {
        (None, None) => address,
        (start, end) => format!(
            "{address}#t={}{}",
            start.unwrap_or(0.0),
            end.map_or(String::new(), |end| format!(",{end}"))
        ),
    }
}

/// The way from a folder to a file, both absolute.
fn relative(file: &Path, folder: &Path) -> String {
    let (file, folder): (Vec<Component>, Vec<Component>) =
        (file.components().collect(), folder.components().collect());
    let shared = file.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_owned(), folder.len() - shared);
    up.chain(
        file[shared..]
            .iter()
            .map(|part| part.as_os_str().to_string_lossy().into_owned()),
    )
    .collect::<Vec<_>>()
    .join("/")
}

/// Samples as a WAV file of 16 bits, mono.
fn wav(samples: &[f32]) -> Vec<u8> {
    const BYTES: u32 = 2;
    let data = samples.len() as u32 * BYTES;
    let mut file = Vec::with_capacity(44 + data as usize);
    file.extend(b"RIFF");
    file.extend((36 + data).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    // PCM, one channel.
    file.extend([1, 0, 1, 0]);
    file.extend(SAMPLE_RATE.to_le_bytes());
    file.extend((SAMPLE_RATE * BYTES).to_le_bytes());
    file.extend((BYTES as u16).to_le_bytes());
    file.extend(16u16.to_le_bytes());
    file.extend(b"data");
    file.extend(data.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| {
        ((sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16).to_le_bytes()
    }));
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_audio::Span;

    #[test]
    fn what_is_embedded_is_what_was_heard() {
        let samples: Vec<f32> = (0..1600).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
        let heard = maqam_audio::read_bytes(wav(&samples).into(), "clip", Span::default()).unwrap();
        assert_eq!(heard.len(), samples.len());
        // 16 bits round by half a step of 1/32767, and readers divide by 32768.
        assert!(
            heard
                .iter()
                .zip(&samples)
                .all(|(a, b)| (a - b).abs() < 5e-5)
        );
    }

    #[test]
    fn links_lead_from_the_page_to_the_file() {
        assert_eq!(
            relative(Path::new("/a/data/x.ogg"), Path::new("/a/runs/r")),
            "../../data/x.ogg"
        );
        assert_eq!(relative(Path::new("/a/x.ogg"), Path::new("/a")), "x.ogg");
        assert!(
            link(
                Path::new("/no/x y.ogg"),
                Path::new("/no/r.html"),
                Some(1.5),
                Some(2.0)
            )
            .ends_with("x%20y.ogg#t=1.5,2")
        );
    }
}
