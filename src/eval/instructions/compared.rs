//! Scores of models on a suite of instructions beside each other, as `instructions.json` has them.

use crate::eval::instructions::score::Constant;
use crate::eval::instructions::score::change;
use crate::records::instructions::ConstantAnswer;
use crate::records::instructions::InstructionScores;
use crate::records::instructions::Instructions;

/// Puts the scores of the tuned model beside those of its base, of the best constant answer, and of
/// both models in text alone (`text`: base, tuned), each with what changes from it.
pub fn compared(
    tuned: &InstructionScores,
    base: Option<&InstructionScores>,
    constant: Option<&Constant>,
    text: Option<&(InstructionScores, InstructionScores)>,
) -> Instructions {
    let constant = constant.map(|constant| ConstantAnswer {
        answer: constant.answer.clone(),
        scores: constant.scores.clone(),
        change: change(&constant.scores, tuned),
    });
    let text = text.map(|(base, tuned)| Box::new(compared(tuned, Some(base), None, None)));
    Instructions {
        model: tuned.clone(),
        base: base.cloned(),
        change: base.map(|base| change(base, tuned)),
        constant,
        text,
    }
}
