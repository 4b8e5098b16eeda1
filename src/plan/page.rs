//! What the page of a plan shows: see [`maqam_report::plan`].

use crate::plan::Plan;
use crate::plan::affinity::Affinity;
use crate::plan::draws::StageDraws;
use crate::plan::evenness;
use crate::plan::evenness::Evenness;
use crate::plan::probe::Sample;
use crate::plan::shares;
use crate::plan::shares::StageShares;
use crate::plan::table::Table;
use crate::report::chart::figure::slug;
use crate::report::page::Page;
use crate::report::page::table as page;
use crate::report::plan as shown;
use crate::report::plan::Amount;
use crate::report::plan::Batches;
use crate::report::plan::Embeddings;
use crate::report::plan::Plan as Shown;
use crate::report::plan::Row;
use crate::report::plan::Stage;
use crate::schedule::NO_LABEL;

impl Plan {
    /// The plan as one page of HTML.
    pub fn page(&self, name: &str) -> Page {
        let stages = self.draws.iter().zip(&self.shares).zip(&self.evenness);
        let tables = self.share_tables();
        crate::report::plan::page(&Shown {
            name: name.to_owned(),
            num_steps: self.schedule.num_steps(),
            batch: self.schedule.batch(),
            num_rows: self.corpus.len(),
            total: amount(&self.total()),
            tasks: self.corpus.population().tasks.clone(),
            stages: stages
                .map(|((draws, shares), (_, evenness))| self.stage(draws, shares, evenness))
                .collect(),
            shares: tables.iter().map(table).collect(),
            evenness: table(&self.evenness_table()),
            embeddings: self
                .probe
                .as_ref()
                .map(|(told, sample)| self.embeddings(told, sample)),
            affinity: self.affinity.as_ref().map(affinity),
            estimates: self.estimates.clone(),
            warnings: self.warnings.clone(),
            notes: self.notes.clone(),
        })
    }

    fn stage(&self, draws: &StageDraws, shares: &StageShares, evenness: &Evenness) -> Stage {
        let of_task = |task: usize| {
            let mut whole = shares.shares.iter().filter(|share| share.label.is_none());
            let own = whole.find(|share| share.task == task);
            own.map(|share| amount(&share.amount))
        };
        let nearest = evenness.by_place.iter().map(|(drawn, in_order)| {
            [drawn, in_order].map(|spread| spread.map(|spread| spread.nearest))
        });
        Stage {
            name: draws.stage.name.clone(),
            num_steps: draws.steps.len(),
            tasks: (0..self.corpus.population().tasks.len())
                .map(of_task)
                .collect(),
            total: amount(&shares.total),
            drawn: batches(&evenness.drawn),
            in_order: evenness.unchosen.as_ref().map(batches),
            at_random: batches(&evenness.at_random),
            by_place: nearest.collect(),
        }
    }

    fn embeddings(&self, told: &Table, sample: &Sample) -> Embeddings {
        let population = self.corpus.population();
        let row = |&row: &u32| {
            let task = self.corpus.task_of(row);
            let label = population.label_of(row);
            Row {
                id: self.corpus.id(row),
                task: population.tasks[task].clone(),
                label: (label != NO_LABEL).then(|| {
                    let label = &population.labels[task][usize::from(label)];
                    format!("{}: {label}", population.tasks[task])
                }),
            }
        };
        Embeddings {
            table: table(told),
            rows: sample.rows.iter().map(row).collect(),
            dims: sample.dims,
            values: sample.values.clone(),
        }
    }
}

fn affinity(found: &Affinity) -> shown::Affinity {
    let n = found.names.len();
    let row = |row: &[f64]| row.iter().copied().map(Some).collect();
    shown::Affinity {
        table: table(&found.table()),
        names: found.names.clone(),
        cosines: found.cosines.chunks(n).map(row).collect(),
        groups: (0..n).map(|member| found.group_of(member) - 1).collect(),
        members: found.members(),
        merges: found.merges.clone(),
    }
}

fn amount(amount: &shares::Amount) -> Amount {
    Amount {
        examples: amount.examples,
        seconds: amount.seconds,
        target_tokens: amount.target_tokens,
    }
}

fn batches(batches: &evenness::Batches) -> Batches {
    Batches {
        tasks: batches.tasks,
        labels: batches.labels,
        nearest: batches.spread.map(|spread| spread.nearest),
    }
}

/// A table as a page shows it.
fn table(table: &Table) -> page::Table {
    let column = |(i, name): (usize, &String)| match i < table.num_words {
        true => page::Column::text(name),
        false => page::Column::number(name),
    };
    let columns = table.columns.iter().enumerate().map(column).collect();
    let mut found = page::Table::new(slug(&table.title), &table.title, &table.note, columns);
    for row in &table.rows {
        // Labels stand below their task; a page would swallow plain spaces.
        let cells = row
            .iter()
            .map(|cell| page::Cell::text(cell.replace("  ", "\u{2003}")))
            .chain(std::iter::repeat(page::Cell::text("")));
        found.row(false, cells.take(table.columns.len()).collect());
    }
    found
}
