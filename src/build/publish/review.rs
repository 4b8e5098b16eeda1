//! `review.html`: a random sample for listening and rating. The ratings are exported as JSON lines,
//! which `maqam build --ratings` reads.

use crate::build::agreement::SCALES;
use crate::build::publish::statistics::Reviewed;
use crate::build::recipe::Recipe;
use crate::report::page::escape::address;
use crate::report::page::escape::xml;

/// The page.
pub(super) fn page(recipe: &Recipe, rows: &[Reviewed]) -> String {
    let direction = match recipe.language().split('-').next() {
        Some("ar" | "fa" | "ur" | "he") => "rtl",
        _ => "ltr",
    };
    let cards: String = rows.iter().map(|row| card(row, direction)).collect();
    TEMPLATE
        .replace("{{name}}", &xml(&recipe.name))
        .replace("{{num}}", &rows.len().to_string())
        .replace("{{rows}}", &cards)
}

fn card(row: &Reviewed, direction: &str) -> String {
    let summaries: String = row
        .summaries
        .iter()
        .map(|summary| {
            format!(
                "<p class=\"summary\" dir=\"{direction}\">{}</p>\n",
                xml(summary)
            )
        })
        .collect();
    let scales: String = SCALES
        .iter()
        .map(|(name, question)| {
            let options: String = (1..=5).map(|grade| format!("<option>{grade}</option>")).collect();
            format!("<label>{question} <select name=\"{name}\"><option></option>{options}</select></label>\n")
        })
        .collect();
    format!(
        "<article data-id=\"{}\">\n<h2>{}</h2>\n<p class=\"facts\">{}, voice {}, {:.1} s</p>\n<audio controls preload=\"none\" src=\"{}\"></audio>\n{summaries}<details><summary>text</summary><p dir=\"{direction}\">{}</p></details>\n{scales}</article>\n",
        xml(&row.id),
        xml(&row.id),
        row.split,
        xml(&row.voice),
        row.duration_s,
        xml(&address(&row.audio)),
        xml(&row.text),
    )
}

const TEMPLATE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{{name}}: review</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
article { border-top: 1px solid #ccc; padding: 1rem 0; }
h2 { font-size: 1rem; margin: 0; }
.facts { color: #666; margin: 0 0 .5rem; }
.summary { font-size: 1.15rem; }
audio { width: 100%; }
label { display: block; margin: .2rem 0; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616; } .facts { color: #aaa; } article { border-color: #444; } }
</style>
</head>
<body>
<h1>{{name}}: review</h1>
<p>{{num}} rows, drawn at random. Grades go from 1 (bad) to 5 (good). A row without grades is left out of the export. The page works offline and keeps nothing: export before you close it.</p>
<p><label>Your name <input id="rater"/></label> <button id="export">Export ratings</button></p>
{{rows}}<script>
document.getElementById("export").addEventListener("click", () => {
  const rater = document.getElementById("rater").value.trim() || "anonymous";
  const lines = [];
  for (const row of document.querySelectorAll("article")) {
    const grades = {};
    for (const scale of row.querySelectorAll("select")) {
      if (scale.value) grades[scale.name] = Number(scale.value);
    }
    if (Object.keys(grades).length) lines.push(JSON.stringify({id: row.dataset.id, rater, grades}));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "application/jsonl"}));
  link.download = "ratings-" + rater + ".jsonl";
  link.click();
});
</script>
</body>
</html>
"#;
