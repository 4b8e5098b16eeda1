//! Picks of a few curricula against those of a second implementation in Python.

use super::*;

fn part<T: serde::de::DeserializeOwned>(case: &serde_json::Value, name: &str) -> Option<T> {
    case.get(name)
        .map(|value| serde_json::from_value(value.clone()).unwrap())
}

fn vectors(written: &serde_json::Value) -> Vectors {
    Vectors {
        rows: part(written, "rows").unwrap(),
        dims: part(written, "dims").unwrap(),
        values: part(written, "values").unwrap(),
    }
}

#[test]
fn picks_equal_those_of_the_second_implementation() {
    let cases: serde_json::Value = serde_json::from_str(include_str!(
        "../../../../tests/fixtures/schedule/picks.json"
    ))
    .unwrap();
    let mut compared = Vec::new();
    for case in cases.as_array().unwrap() {
        let written = &case["population"];
        let entries: Vec<(u32, u32, f64)> = part(written, "entries").unwrap();
        let population = Population {
            tasks: part(written, "tasks").unwrap(),
            labels: part(written, "labels").unwrap_or_default(),
            row_task: part(written, "row_task").unwrap(),
            row_label: part(written, "row_label").unwrap_or_default(),
            row_has_audio: part(written, "row_has_audio").unwrap_or_default(),
            entries: entries
                .into_iter()
                .map(|(start, end, weight)| Entry {
                    rows: start..end,
                    weight,
                })
                .collect(),
        };
        let mut schedule = Schedule::new(
            &part(case, "settings").unwrap(),
            &population,
            part(case, "seed").unwrap(),
        )
        .unwrap();
        if let Some(embeddings) = case.get("embeddings") {
            let embeddings = Arc::new(
                Embeddings::new(
                    vectors(&embeddings["audio"]),
                    vectors(&embeddings["text"]),
                    1,
                )
                .unwrap(),
            );
            let needed = (0..schedule.stages().len())
                .filter(|&stage| schedule.embeddings_of(stage).is_some())
                .collect::<Vec<_>>();
            needed
                .into_iter()
                .for_each(|stage| schedule.set_embeddings(stage, embeddings.clone()).unwrap());
        }
        for (stage, steps) in part::<Vec<(usize, u64)>>(case, "ended").unwrap_or_default() {
            schedule.end_stage(stage, steps).unwrap();
        }
        let picks: Vec<Vec<(u32, u32)>> = part(case, "picks").unwrap();
        assert_eq!(schedule.num_steps(), picks.len() as u64);
        for (step, picks) in picks.iter().enumerate() {
            let ours: Vec<_> = schedule
                .picks(step as u64)
                .unwrap()
                .iter()
                .map(|pick| (pick.row, pick.epoch))
                .collect();
            assert_eq!(&ours, picks, "{} step {step}", case["settings"]);
        }
        compared.push(picks.concat().len());
    }
    assert_eq!(compared, [96, 96, 110, 132, 84, 119, 100, 160, 110, 80]);
}
