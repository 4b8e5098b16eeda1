//! Numbers in Arabic words: cardinals by gender and case, ordinals of days and hours, and nouns
//! that are counted.
//!
//! Source: the rules of counting in W. Wright, *A Grammar of the Arabic Language*, volume 1, §§ 318
//! to 338, in the spelling of today's press (مئة, not مائة).

/// Gender of what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gender {
    Masculine,
    Feminine,
}

/// Case of the number, as far as undiacritised writing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Nominative,
    Oblique,
}

/// Forms of a counted noun.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub(crate) struct Noun {
    /// One, and after whole hundreds.
    pub(crate) one: String,
    /// Two, oblique.
    pub(crate) two: String,
    /// Three to ten.
    pub(crate) few: String,
    /// Eleven to ninety-nine.
    pub(crate) many: String,
    #[serde(default)]
    pub(crate) is_feminine: bool,
}

/// Three to nine with a masculine noun, and the same with a feminine one.
const UNITS: [(&str, &str); 10] = [
    ("صفر", "صفر"),
    ("واحد", "واحدة"),
    ("اثنان", "اثنتان"),
    ("ثلاثة", "ثلاث"),
    ("أربعة", "أربع"),
    ("خمسة", "خمس"),
    ("ستة", "ست"),
    ("سبعة", "سبع"),
    ("ثمانية", "ثماني"),
    ("تسعة", "تسع"),
];
/// Twenty to ninety without their ending.
const TENS: [&str; 8] = ["عشر", "ثلاث", "أربع", "خمس", "ست", "سبع", "ثمان", "تسع"];
const HUNDREDS: [&str; 9] = [
    "مئة",
    "",
    "ثلاثمئة",
    "أربعمئة",
    "خمسمئة",
    "ستمئة",
    "سبعمئة",
    "ثمانمئة",
    "تسعمئة",
];
/// One, two without its ending, three to ten, eleven and more.
const SCALES: [(u64, &str, &str, &str, &str); 4] = [
    (
        1_000_000_000_000,
        "تريليون",
        "تريليون",
        "تريليونات",
        "تريليونًا",
    ),
    (1_000_000_000, "مليار", "مليار", "مليارات", "مليارًا"),
    (1_000_000, "مليون", "مليون", "ملايين", "مليونًا"),
    (1_000, "ألف", "ألف", "آلاف", "ألفًا"),
];
/// Numbers from here on have no words here.
pub(crate) const TOO_LARGE: u64 = 1_000_000_000_000_000;

/// A whole number below [`TOO_LARGE`] in words.
pub(crate) fn cardinal(number: u64, gender: Gender, case: Case) -> String {
    if number == 0 {
        return UNITS[0].0.to_owned();
    }
    let mut parts = Vec::new();
    let mut rest = number;
    for (scale, one, two, few, many) in SCALES {
        let count = rest / scale;
        rest %= scale;
        match count {
            0 => {}
            1 => parts.push(one.to_owned()),
            2 => parts.push(format!("{two}{}", dual(case))),
            _ => parts.push(counted_scale(count, case, one, two, few, many)),
        }
    }
    if rest > 0 {
        parts.push(below_thousand(rest, gender, case));
    }
    parts.join(" و")
}

/// Three or more thousands, millions ...
fn counted_scale(count: u64, case: Case, one: &str, two: &str, few: &str, many: &str) -> String {
    let hundreds = count / 100 * 100;
    let last = count % 100;
    let words = |number: u64| cardinal(number, Gender::Masculine, case);
    match last {
        0 => format!("{} {one}", words(count)),
        1 => format!("{} و{one}", words(hundreds)),
        2 => format!("{} و{two}{}", words(hundreds), dual(case)),
        3..=10 => format!("{} {few}", words(count)),
        _ => format!("{} {many}", words(count)),
    }
}

fn below_thousand(number: u64, gender: Gender, case: Case) -> String {
    let mut parts = Vec::new();
    match number / 100 {
        0 => {}
        2 => parts.push(format!("مئت{}", dual(case))),
        hundreds => parts.push(HUNDREDS[hundreds as usize - 1].to_owned()),
    }
    match number % 100 {
        0 => {}
        rest @ 1..=9 => parts.push(unit(rest, gender, case)),
        10 => parts.push(ten(gender).to_owned()),
        rest @ 11..=19 => parts.push(teen(rest - 10, gender, case)),
        rest => {
            let ending = if case == Case::Nominative {
                "ون"
            } else {
                "ين"
            };
            let tens = format!("{}{ending}", TENS[rest as usize / 10 - 2]);
            match rest % 10 {
                0 => parts.push(tens),
                last => parts.push(format!("{} و{tens}", unit(last, gender, case))),
            }
        }
    }
    parts.join(" و")
}

fn unit(number: u64, gender: Gender, case: Case) -> String {
    let (masculine, feminine) = UNITS[number as usize];
    let word = if gender == Gender::Masculine {
        masculine
    } else {
        feminine
    };
    match (number, case) {
        (2, Case::Oblique) => word.replace("ان", "ين"),
        _ => word.to_owned(),
    }
}

fn ten(gender: Gender) -> &'static str {
    match gender {
        Gender::Masculine => "عشرة",
        Gender::Feminine => "عشر",
    }
}

fn teen(last: u64, gender: Gender, case: Case) -> String {
    let first = match (last, gender, case) {
        (1, Gender::Masculine, _) => "أحد".to_owned(),
        (1, Gender::Feminine, _) => "إحدى".to_owned(),
        // The dual loses its last letter before ten.
        (2, ..) => unit(2, gender, case).trim_end_matches('ن').to_owned(),
        _ => unit(last, gender, case),
    };
    // Ten itself agrees here, with the opposite gender of ten alone.
    let ten = match gender {
        Gender::Masculine => "عشر",
        Gender::Feminine => "عشرة",
    };
    format!("{first} {ten}")
}

fn dual(case: Case) -> &'static str {
    match case {
        Case::Nominative => "ان",
        Case::Oblique => "ين",
    }
}

/// A noun with its number: `5 دولار` is خمسة دولارات.
pub(crate) fn counted(number: u64, noun: &Noun) -> String {
    let gender = if noun.is_feminine {
        Gender::Feminine
    } else {
        Gender::Masculine
    };
    let words = |number| cardinal(number, gender, Case::Oblique);
    match (number, number % 100) {
        (1, _) => format!("{} {}", noun.one, words(1)),
        (2, _) => noun.two.clone(),
        (_, 3..=10) => format!("{} {}", words(number), noun.few),
        (_, 11..=99) => format!("{} {}", words(number), noun.many),
        _ => format!("{} {}", words(number), noun.one),
    }
}

/// The day of a month, 1 to 31, as an ordinal with its article, oblique.
pub(crate) fn day(number: u64) -> Option<String> {
    ordinal(number, Gender::Masculine).filter(|_| (1..=31).contains(&number))
}

/// The hour of a clock, 1 to 12, as an ordinal with its article.
pub(crate) fn hour(number: u64) -> Option<String> {
    match number {
        1 => Some("الواحدة".to_owned()),
        2..=12 => ordinal(number, Gender::Feminine),
        _ => None,
    }
}

fn ordinal(number: u64, gender: Gender) -> Option<String> {
    const ORDINALS: [&str; 10] = [
        "الأول",
        "الثاني",
        "الثالث",
        "الرابع",
        "الخامس",
        "السادس",
        "السابع",
        "الثامن",
        "التاسع",
        "العاشر",
    ];
    let ending = match gender {
        Gender::Masculine => "",
        Gender::Feminine => "ة",
    };
    let last = |number: u64| match number {
        1 => format!("الحادي{ending}"),
        _ => format!("{}{ending}", ORDINALS[number as usize - 1]),
    };
    match number {
        1..=10 => Some(format!("{}{ending}", ORDINALS[number as usize - 1])),
        11..=19 => Some(format!("{} عشر{ending}", last(number - 10))),
        20..=99 => {
            let tens = format!("ال{}ين", TENS[number as usize / 10 - 2]);
            Some(match number % 10 {
                0 => tens,
                rest => format!("{} و{tens}", last(rest)),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cardinals_are_those_of_the_grammar() {
        use Case::Nominative as N;
        use Case::Oblique as O;
        use Gender::Feminine as F;
        use Gender::Masculine as M;
        for (number, gender, case, expected) in [
            (0, M, N, "صفر"),
            (1, F, N, "واحدة"),
            (2, M, N, "اثنان"),
            (2, F, O, "اثنتين"),
            (3, M, N, "ثلاثة"),
            (8, F, N, "ثماني"),
            (10, M, N, "عشرة"),
            (11, M, N, "أحد عشر"),
            (11, F, N, "إحدى عشرة"),
            (12, M, N, "اثنا عشر"),
            (12, F, O, "اثنتي عشرة"),
            (13, M, N, "ثلاثة عشر"),
            (19, F, N, "تسع عشرة"),
            (20, M, N, "عشرون"),
            (25, M, O, "خمسة وعشرين"),
            (99, F, N, "تسع وتسعون"),
            (100, M, N, "مئة"),
            (101, M, N, "مئة وواحد"),
            (200, M, O, "مئتين"),
            (365, M, N, "ثلاثمئة وخمسة وستون"),
            (999, M, N, "تسعمئة وتسعة وتسعون"),
            (1000, M, N, "ألف"),
            (2000, M, N, "ألفان"),
            (2017, M, O, "ألفين وسبعة عشر"),
            (3000, M, N, "ثلاثة آلاف"),
            (11_000, M, N, "أحد عشر ألفًا"),
            (100_000, M, N, "مئة ألف"),
            (102_000, M, O, "مئة وألفين"),
            (103_000, M, N, "مئة وثلاثة آلاف"),
            (1_250_000, M, O, "مليون ومئتين وخمسين ألفًا"),
            (5_000_000_000, M, N, "خمسة مليارات"),
        ] {
            assert_eq!(cardinal(number, gender, case), expected, "{number}");
        }
    }

    #[test]
    fn nouns_agree_with_their_number() {
        let dollar = Noun {
            one: "دولار".into(),
            two: "دولارين".into(),
            few: "دولارات".into(),
            many: "دولارًا".into(),
            is_feminine: false,
        };
        for (number, expected) in [
            (1, "دولار واحد"),
            (2, "دولارين"),
            (5, "خمسة دولارات"),
            (15, "خمسة عشر دولارًا"),
            (100, "مئة دولار"),
            (110, "مئة وعشرة دولارات"),
            (1000, "ألف دولار"),
        ] {
            assert_eq!(counted(number, &dollar), expected);
        }
    }

    #[test]
    fn days_and_hours_are_ordinals() {
        assert_eq!(day(1).unwrap(), "الأول");
        assert_eq!(day(11).unwrap(), "الحادي عشر");
        assert_eq!(day(20).unwrap(), "العشرين");
        assert_eq!(day(31).unwrap(), "الحادي والثلاثين");
        assert_eq!(day(32), None);
        assert_eq!(hour(1).unwrap(), "الواحدة");
        assert_eq!(hour(12).unwrap(), "الثانية عشرة");
        assert_eq!(hour(0), None);
    }
}
