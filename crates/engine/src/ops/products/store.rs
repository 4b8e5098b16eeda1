//! Where the algorithm of a product comes from: the run's copy, then the machine's file, then a new
//! timing, which is stored before it is used.

use std::path::Path;
use std::path::PathBuf;

use crate::ops::notes::note;
use crate::ops::products::choices::Choice;
use crate::ops::products::choices::Choices;
use crate::ops::products::place::Machine;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::Lock;

/// Folder of the copies in a run's folder.
const RUN_FOLDER: &str = "products";

/// The choices of one process.
///
/// What is stored is never replaced. So a second run takes the choices of the first, and the two
/// compute the same bits. A resumed run takes the choices of its own copy, even where the machine's
/// file was deleted and timed again.
pub struct Store {
    machine: Machine,
    /// Folder of the machine's file; `None` where nothing is timed and nothing read.
    folder: Option<PathBuf>,
    /// Whether products without a choice are timed: not once the file could not be written, because
    /// a second run would time them again.
    is_timing: bool,
    shared: Choices,
    of_run: Choices,
    /// Choices that this run has taken.
    used: Choices,
}

impl Store {
    /// Reads the machine's file in `folder`; without a folder nothing is timed.
    pub fn open(machine: Machine, folder: Option<PathBuf>) -> Self {
        let mut store = Self {
            is_timing: folder.is_some(),
            machine,
            folder,
            shared: Choices::default(),
            of_run: Choices::default(),
            used: Choices::default(),
        };
        if let Some(folder) = &store.folder {
            store.shared = read(&folder.join(store.machine.file_name()), &store.machine);
        }
        store
    }

    /// The copy of the machine's choices in a run's folder.
    fn copy_in(&self, run: &Path) -> PathBuf {
        run.join(RUN_FOLDER).join(self.machine.file_name())
    }

    /// Whether a product without a choice is to be timed.
    pub fn is_timing(&self) -> bool {
        self.is_timing
    }

    /// The choice of a product, by its key.
    pub fn find(&mut self, product: &str) -> Option<Choice> {
        let found = self
            .of_run
            .get(product)
            .or_else(|| self.used.get(product))
            .or_else(|| self.shared.get(product))?
            .clone();
        self.used.insert(product.to_owned(), found.clone());
        Some(found)
    }

    /// Stores a new choice and returns the one to use: that of another process which stored one in
    /// the meantime. `None`, with a note, where the file cannot be written; then nothing is timed
    /// any more.
    pub fn settle(&mut self, product: &str, choice: Choice) -> Option<Choice> {
        let folder = self.folder.clone()?;
        match self.store(&folder, product, choice) {
            Ok(()) => self.find(product),
            Err(error) => {
                self.is_timing = false;
                note(&format!(
                    "algorithms of matrix products are not timed, as they cannot be stored: {}",
                    error.message()
                ));
                None
            }
        }
    }

    fn store(&mut self, folder: &Path, product: &str, choice: Choice) -> Result<()> {
        let path = folder.join(self.machine.file_name());
        let _lock = Lock::wait(folder, |_| {})?;
        // Others may have written since, and what they stored stays.
        let mut stored = read(&path, &self.machine);
        stored.merge(&self.shared);
        stored.insert(product.to_owned(), choice);
        files::write_atomic(&path, stored.text(&self.machine)?.as_bytes())?;
        // This process keeps what it may have used already, if someone removed the file.
        self.shared.merge(&stored);
        Ok(())
    }

    /// Begins the run in `folder`, whose copy is asked before the machine's file.
    pub fn begin_run(&mut self, folder: &Path) {
        self.used = Choices::default();
        self.of_run = Choices::default();
        if self.folder.is_some() {
            self.of_run = read(&self.copy_in(folder), &self.machine);
        }
    }

    /// Writes the choices that the run has taken into its folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn copy_to_run(&mut self, folder: &Path) -> Result<()> {
        let mut all = self.of_run.clone();
        all.merge(&self.used);
        let path = self.copy_in(folder);
        if all.is_empty() || (all.len() == self.of_run.len() && path.is_file()) {
            return Ok(());
        }
        files::write_atomic(&path, all.text(&self.machine)?.as_bytes())?;
        self.of_run = all;
        Ok(())
    }
}

/// The choices of a file. What is wrong with it is told, and timed anew.
fn read(path: &Path, machine: &Machine) -> Choices {
    let (choices, faults) = Choices::read(path, machine);
    for fault in faults {
        note(&format!(
            "{fault}: the algorithms of these matrix products are timed again"
        ));
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::products::choices::Algorithm;
    use crate::ops::products::signature::FORMS;

    fn machine() -> Machine {
        Machine {
            gpu: "a GPU".into(),
            driver: "580.1".into(),
            cublaslt: "130002".into(),
        }
    }

    fn choice(candidate: usize) -> Choice {
        Choice {
            candidate,
            microseconds: vec![Some(2.0), Some(1.0)],
            form: FORMS[0],
            algorithm: Algorithm([candidate as u64; 8]),
        }
    }

    fn store(folder: &Path) -> Store {
        Store::open(machine(), Some(folder.to_owned()))
    }

    fn candidate(store: &mut Store, product: &str) -> Option<usize> {
        store.find(product).map(|choice| choice.candidate)
    }

    #[test]
    fn a_second_process_takes_the_choices_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(dir.path());
        // A second process starts before the first has timed anything, and times the same product
        // with another outcome.
        let mut second = store(dir.path());
        assert!(first.is_timing() && first.find("p").is_none());
        assert_eq!(first.settle("p", choice(3)).unwrap(), choice(3));
        assert_eq!(second.settle("p", choice(5)).unwrap(), choice(3));
        second.settle("q", choice(1)).unwrap();
        first.settle("r", choice(2)).unwrap();

        let mut third = store(dir.path());
        assert_eq!(candidate(&mut third, "p"), Some(3));
        assert_eq!(candidate(&mut third, "q"), Some(1));
        assert_eq!(candidate(&mut third, "r"), Some(2));
        assert_eq!(candidate(&mut third, "s"), None);
    }

    #[test]
    fn many_threads_agree_on_one_choice() {
        let dir = tempfile::tempdir().unwrap();
        let settle = |number: usize| {
            let mut own = store(dir.path());
            let product = format!("p{}", number % 3);
            (number % 3, own.settle(&product, choice(number)).unwrap())
        };
        let settled: Vec<(usize, Choice)> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..9)
                .map(|number| scope.spawn(move || settle(number)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let mut last = store(dir.path());
        for (product, settled) in settled {
            assert_eq!(last.find(&format!("p{product}")), Some(settled));
        }
    }

    #[test]
    fn a_resumed_run_takes_its_own_copy() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let cache = dir.path().join("cache");
        let mut first = store(&cache);
        first.settle("elsewhere", choice(4)).unwrap();
        first.begin_run(&run);
        first.copy_to_run(&run).unwrap();
        assert!(!run.exists(), "nothing was chosen for the run yet");
        first.settle("p", choice(3)).unwrap();
        first.copy_to_run(&run).unwrap();

        // The machine's file is gone, and another process has timed anew.
        files::remove_dir(&cache).unwrap();
        store(&cache).settle("p", choice(6)).unwrap();
        let mut resumed = store(&cache);
        assert_eq!(candidate(&mut resumed, "p"), Some(6));
        resumed.begin_run(&run);
        assert_eq!(candidate(&mut resumed, "p"), Some(3));
        assert_eq!(candidate(&mut resumed, "elsewhere"), None);
        resumed.settle("q", choice(2)).unwrap();
        resumed.copy_to_run(&run).unwrap();

        let copy = run.join(RUN_FOLDER).join(machine().file_name());
        let (copied, faults) = Choices::read(&copy, &machine());
        assert!(faults.is_empty(), "{faults:?}");
        let of = |product: &str| copied.get(product).map(|choice| choice.candidate);
        assert_eq!(
            (of("p"), of("q"), of("elsewhere")),
            (Some(3), Some(2), None)
        );
        // Another run of the process does not take them over.
        resumed.begin_run(&dir.path().join("other"));
        assert_eq!(candidate(&mut resumed, "p"), Some(6));
    }

    #[test]
    fn a_damaged_line_is_timed_again_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(dir.path());
        first.settle("p", choice(3)).unwrap();
        first.settle("q", choice(4)).unwrap();
        let path = dir.path().join(machine().file_name());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"product\":\"p\"", "\"product\":", 1)).unwrap();
        let mut second = store(dir.path());
        assert_eq!(candidate(&mut second, "p"), None);
        assert_eq!(candidate(&mut second, "q"), Some(4));
        second.settle("p", choice(7)).unwrap();
        let mut third = store(dir.path());
        assert_eq!(candidate(&mut third, "p"), Some(7));
        assert_eq!(candidate(&mut third, "q"), Some(4));
    }

    #[test]
    fn without_a_folder_nothing_is_timed_or_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(&dir.path().join("cache"));
        first.settle("p", choice(3)).unwrap();
        first.copy_to_run(dir.path()).unwrap();
        let mut off = Store::open(machine(), None);
        off.begin_run(dir.path());
        assert!(!off.is_timing() && off.find("p").is_none());
        assert_eq!(off.settle("p", choice(1)), None);
        off.copy_to_run(&dir.path().join("other")).unwrap();
        assert!(!dir.path().join("other").exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_ends_the_timing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "no folder").unwrap();
        let mut first = store(&file.join("cache"));
        assert!(first.is_timing());
        assert_eq!(first.settle("p", choice(3)), None);
        assert!(!first.is_timing());
        // What was not stored is not used.
        assert_eq!(first.find("p"), None);
    }
}
