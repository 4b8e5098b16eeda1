//! Controls: the same questions with the audio taken away, or with that of another row. What a
//! model still scores it did not hear.

use crate::data::AUDIO_MARK;
use crate::error::Error;
use crate::error::Result;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::records::suite_file::Control;
use crate::seed::Key;
use crate::task::Example;

/// The suite as a control asks it; sets without audio are left out.
///
/// # Errors
/// A shuffle of a single row.
pub fn asked(control: Control, suite: &Suite) -> Result<Suite> {
    let mut sets = Vec::new();
    for set in suite
        .sets
        .iter()
        .filter(|set| set.examples.iter().any(|example| !example.clips.is_empty()))
    {
        let examples = match control {
            Control::NoAudio => set.examples.iter().map(without_audio).collect(),
            Control::ShuffledAudio => {
                shuffled(&set.examples).map_err(|e| e.at(format!("set `{}`", set.name)))?
            }
        };
        sets.push(Set {
            examples,
            ..set.clone()
        });
    }
    Ok(Suite {
        sets,
        controls: Vec::new(),
        ..suite.clone()
    })
}

fn without_audio(example: &Example) -> Example {
    let mut example = example.clone();
    example.clips.clear();
    for message in &mut example.messages {
        message.content = message
            .content
            .replace(AUDIO_MARK, "")
            .trim_start()
            .to_owned();
    }
    example
}

/// Every example with audio takes the clips of the next in a seeded order that closes on itself, so
/// none keeps its own.
fn shuffled(examples: &[Example]) -> Result<Vec<Example>> {
    let with_audio: Vec<usize> = (0..examples.len())
        .filter(|&i| !examples[i].clips.is_empty())
        .collect();
    if with_audio.len() < 2 {
        return Err(
            Error::input("one row with audio: there is no other to take a clip from")
                .hint("leave `shuffled-audio` out of `controls`"),
        );
    }
    if let Some(&odd) = with_audio
        .iter()
        .find(|&&i| examples[i].clips.len() != examples[with_audio[0]].clips.len())
    {
        return Err(Error::input(format!(
            "row `{}` has another number of clips than the first",
            examples[odd].id
        ))
        .hint("leave `shuffled-audio` out of `controls`"));
    }
    let order = Key::new(0, "shuffled audio").permutation(with_audio.len());
    let mut asked = examples.to_vec();
    for (place, &from) in order.iter().enumerate() {
        let to = order[(place + 1) % order.len()];
        asked[with_audio[to as usize]].clips = examples[with_audio[from as usize]].clips.clone();
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;
    use std::path::Path;

    fn suite() -> Suite {
        Suite::load(Path::new("eval/first.yaml"), &Tasks::load(None).unwrap()).unwrap()
    }

    #[test]
    fn without_audio_the_same_words_are_asked() {
        let suite = suite();
        let asked = asked(Control::NoAudio, &suite).unwrap();
        for (before, now) in suite
            .sets
            .iter()
            .flat_map(|set| &set.examples)
            .zip(asked.sets.iter().flat_map(|set| &set.examples))
        {
            assert!(before.clips.len() == 1 && now.clips.is_empty());
            assert_eq!(
                (&before.reference, before.messages.len()),
                (&now.reference, now.messages.len())
            );
            for (before, now) in before.messages.iter().zip(&now.messages) {
                assert!(
                    !now.content.contains(AUDIO_MARK)
                        && before.content.ends_with(&now.content)
                        && !now.content.is_empty()
                );
            }
        }
    }

    #[test]
    fn shuffled_every_row_hears_another_and_every_clip_is_heard_once() {
        let suite = suite();
        let asked = asked(Control::ShuffledAudio, &suite).unwrap();
        for (before, now) in suite.sets.iter().zip(&asked.sets) {
            let clips = |set: &Set| {
                set.examples
                    .iter()
                    .map(|example| format!("{:?}", example.clips))
                    .collect::<Vec<_>>()
            };
            let mut before_clips = clips(before);
            let mut now_clips = clips(now);
            assert!(
                before_clips
                    .iter()
                    .zip(&now_clips)
                    .all(|(before, now)| before != now)
            );
            before_clips.sort();
            now_clips.sort();
            assert_eq!(before_clips, now_clips);
            assert!(
                before
                    .examples
                    .iter()
                    .zip(&now.examples)
                    .all(|(before, now)| before.messages == now.messages
                        && before.reference == now.reference)
            );
        }
    }
}
