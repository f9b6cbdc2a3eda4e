//! Tokens of simplified English as spaCy's blank pipeline cuts them (3.8), for parity with datatrove: white space, then contractions
//! written without an apostrophe, then symbols at either end of a token or inside it, and units of measure after a number. Of spaCy's
//! rules only those are here that can still match a simplified text.

use std::collections::HashMap;

/// Contractions, cut.
const CONTRACTIONS: &str = "ai nt|are nt|can not|ca nt|ca nt ve|could nt|could nt ve|could ve|dare nt|did nt|did nt ve|does nt|does nt ve|\
    do nt|do nt ve|gon na|got ta|had nt|had nt ve|has nt|have nt|he d|he d ve|he ll ve|he s|how d|how d ve|how ll|how ll ve|how re|how s|\
    how ve|i d|i d ve|i ll ve|i m|i m a|is nt|it d|it d ve|it ll|it ll ve|i ve|may nt|may nt ve|might nt|might nt ve|might ve|must nt|\
    must nt ve|must ve|need nt|need nt ve|not ve|ought nt|ought nt ve|sha nt|sha nt ve|she d ve|she ll ve|she s|should nt|should nt ve|\
    should ve|that d|that d ve|that ll|that ll ve|that s|there d|there d ve|there ll|there ll ve|there re|there s|there ve|these d|\
    these d ve|these ll|these ll ve|these re|these ve|they d|they d ve|they ll|they ll ve|they re|they ve|this d|this d ve|this ll|\
    this ll ve|this s|those d|those d ve|those ll|those ll ve|those re|those ve|was nt|we d|we d ve|we ll ve|were nt|we ve|what d|\
    what d ve|what ll|what ll ve|what re|what s|what ve|when d|when d ve|when ll|when ll ve|when re|when s|when ve|where d|where d ve|\
    where ll|where ll ve|where re|where s|where ve|who d|who d ve|who ll|who ll ve|who s|who ve|why d|why d ve|why ll|why ll ve|why re|\
    why s|why ve|wo nt|wo nt ve|would nt|would nt ve|would ve|y all|you d|you d ve|you ll|you ll ve|you re|you ve|‘s";

/// Units of measure that are cut from the digit before them.
const UNITS: &str = "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz kmh mph mbar mb kb gb tb \
    км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг мбар кб мб гб тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم \
    كغ ملغ كوب اكواب";

/// The tokeniser.
#[derive(Debug)]
pub(super) struct English {
    /// What each contraction consists of.
    contractions: HashMap<String, Vec<&'static str>>,
}

impl English {
    pub(super) fn new() -> Self {
        let entry = |cut: &'static str| (cut.replace(' ', ""), cut.split(' ').collect());
        Self { contractions: CONTRACTIONS.split('|').map(entry).collect() }
    }

    /// Calls `each` with the tokens of a simplified text, in order.
    pub(super) fn tokens(&self, text: &str, mut each: impl FnMut(&str)) {
        for chunk in text.split(' ').filter(|chunk| !chunk.is_empty()) {
            // `‘s` is an exception that is looked for once more when all is cut: a quotation mark waits for what follows.
            let mut quote = false;
            self.cut(chunk, &mut |token| {
                let waits = std::mem::replace(&mut quote, token == "‘");
                if waits && token == "s" {
                    return each("‘s");
                }
                if waits {
                    each("‘");
                }
                if !quote {
                    each(token);
                }
            });
            if quote {
                each("‘");
            }
        }
    }

    fn cut(&self, chunk: &str, each: &mut impl FnMut(&str)) {
        let mut middle = chunk;
        let mut suffixes = Vec::new();
        let mut whole = false;
        while !middle.is_empty() {
            if self.is_contraction(middle) {
                whole = true;
                break;
            }
            let prefix = prefix_length(middle);
            let without_prefix = &middle[prefix..];
            if prefix > 0 && self.is_contraction(without_prefix) {
                each(&middle[..prefix]);
                middle = without_prefix;
                whole = true;
                break;
            }
            let suffix = suffix_length(without_prefix);
            let (without_suffix, end) = middle.split_at(middle.len() - suffix);
            if suffix > 0 {
                suffixes.push(end);
                if self.is_contraction(without_suffix) {
                    middle = without_suffix;
                    whole = true;
                    break;
                }
            }
            if prefix + suffix == 0 {
                break;
            }
            if prefix > 0 {
                each(&middle[..prefix]);
            }
            middle = &without_suffix[prefix..];
        }
        if whole {
            match self.contractions.get(middle) {
                Some(parts) => parts.iter().for_each(|part| each(part)),
                None => each(middle),
            }
        } else {
            cut_inside(middle, each);
        }
        suffixes.iter().rev().for_each(|suffix| each(suffix));
    }

    fn is_contraction(&self, token: &str) -> bool {
        // The longest has ten letters, and these are the last ones of all.
        token.len() <= 10 && token.ends_with(['t', 'e', 'a', 'd', 'l', 's', 'm']) && self.contractions.contains_key(token)
    }
}

/// Cuts a token at the symbols inside it.
fn cut_inside(token: &str, each: &mut impl FnMut(&str)) {
    if token.is_empty() {
        return;
    }
    if token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return each(token);
    }
    let mut start = 0;
    let mut before: Option<char> = None;
    for (at, character) in token.char_indices() {
        let end = at + character.len_utf8();
        let next = token[end..].chars().next();
        // spaCy leaves a symbol at the very start where it is.
        let cuts = at > 0 && (is_symbol(character) || is_relation(character) && before.is_some_and(is_word) && next.is_some_and(is_letter));
        if cuts {
            if start < at {
                each(&token[start..at]);
            }
            each(&token[at..end]);
            start = end;
        }
        before = Some(character);
    }
    if start < token.len() {
        each(&token[start..]);
    }
}

/// `<`, `=` and `>`, which come out of the decomposition of their negations.
fn is_relation(character: char) -> bool {
    matches!(character, '<'..='>')
}

/// spaCy's own lists of letters leave out some scripts, such as Thai.
fn is_letter(character: char) -> bool {
    character.is_alphabetic()
}

fn is_word(character: char) -> bool {
    is_letter(character) || character.is_ascii_digit()
}

fn prefix_length(token: &str) -> usize {
    let first = token.chars().next().filter(|first| is_affix(*first) || is_currency(*first) || matches!(first, '=' | '§'));
    first.map_or(0, char::len_utf8)
}

fn suffix_length(token: &str) -> usize {
    let mut zeros = token.bytes().enumerate().filter(|(_, byte)| *byte == b'0');
    if let Some((at, _)) = zeros.find(|(at, _)| is_measure(&token[at + 1..])) {
        return token.len() - at - 1;
    }
    let mut ends = token.chars().rev();
    let last = ends.next().filter(|last| is_affix(*last) || is_currency(*last) && ends.next() == Some('0'));
    last.map_or(0, char::len_utf8)
}

fn is_measure(token: &str) -> bool {
    !token.is_empty() && UNITS.split(' ').any(|unit| unit == token)
}

/// Punctuation and quotes that survive simplification, and symbols.
fn is_affix(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ';' | '<' | '>' | '`');
    }
    "¡´·¿،؛؟٪۔।‘‚⟦⟧〈〉『』〔〕".contains(character) || is_symbol(character)
}

fn is_currency(character: char) -> bool {
    matches!(character, '£' | '¥' | '฿' | '\u{20A0}'..='\u{20BF}' | '﷼')
}

/// spaCy's list of symbols (general category So of an older Unicode), sorted ranges.
const SYMBOLS: &[(u32, u32)] = &[
    (0xA6, 0xA6),
    (0xA9, 0xA9),
    (0xAE, 0xAE),
    (0xB0, 0xB0),
    (0x482, 0x482),
    (0x58D, 0x58E),
    (0x60E, 0x60F),
    (0x6DE, 0x6DE),
    (0x6E9, 0x6E9),
    (0x6FD, 0x6FE),
    (0x7F6, 0x7F6),
    (0x9FA, 0x9FA),
    (0xB70, 0xB70),
    (0xBF3, 0xBF8),
    (0xBFA, 0xBFA),
    (0xC7F, 0xC7F),
    (0xD4F, 0xD4F),
    (0xD79, 0xD79),
    (0xF01, 0xF03),
    (0xF13, 0xF13),
    (0xF15, 0xF17),
    (0xF1A, 0xF1F),
    (0xF34, 0xF34),
    (0xF36, 0xF36),
    (0xF38, 0xF38),
    (0xFBE, 0xFC5),
    (0xFC7, 0xFCC),
    (0xFCE, 0xFCF),
    (0xFD5, 0xFD8),
    (0x109E, 0x109F),
    (0x1390, 0x1399),
    (0x1940, 0x1940),
    (0x19DE, 0x19FF),
    (0x1B61, 0x1B6A),
    (0x1B74, 0x1B7C),
    (0x2100, 0x2101),
    (0x2103, 0x2106),
    (0x2108, 0x2109),
    (0x2114, 0x2114),
    (0x2116, 0x2117),
    (0x211E, 0x2123),
    (0x2125, 0x2125),
    (0x2127, 0x2127),
    (0x2129, 0x2129),
    (0x212E, 0x212E),
    (0x213A, 0x213B),
    (0x214A, 0x214A),
    (0x214C, 0x214D),
    (0x214F, 0x214F),
    (0x218A, 0x218B),
    (0x2195, 0x2199),
    (0x219C, 0x219F),
    (0x21A1, 0x21A2),
    (0x21A4, 0x21A5),
    (0x21A7, 0x21AD),
    (0x21AF, 0x21CD),
    (0x21D0, 0x21D1),
    (0x21D3, 0x21D3),
    (0x21D5, 0x21F3),
    (0x2300, 0x2307),
    (0x230C, 0x231F),
    (0x2322, 0x2328),
    (0x232B, 0x237B),
    (0x237D, 0x239A),
    (0x23B4, 0x23DB),
    (0x23E2, 0x2426),
    (0x2440, 0x244A),
    (0x249C, 0x24E9),
    (0x2500, 0x25B6),
    (0x25B8, 0x25C0),
    (0x25C2, 0x25F7),
    (0x2600, 0x266E),
    (0x2670, 0x2767),
    (0x2794, 0x27BF),
    (0x2800, 0x28FF),
    (0x2B00, 0x2B2F),
    (0x2B45, 0x2B46),
    (0x2B4D, 0x2B73),
    (0x2B76, 0x2B95),
    (0x2B98, 0x2BC8),
    (0x2BCA, 0x2BFE),
    (0x2CE5, 0x2CEA),
    (0x2E80, 0x2E99),
    (0x2E9B, 0x2EF3),
    (0x2F00, 0x2FD5),
    (0x2FF0, 0x2FFB),
    (0x3004, 0x3004),
    (0x3012, 0x3013),
    (0x3020, 0x3020),
    (0x3036, 0x3037),
    (0x303E, 0x303F),
    (0x3190, 0x3191),
    (0x3196, 0x319F),
    (0x31C0, 0x31E3),
    (0x3200, 0x321E),
    (0x322A, 0x3247),
    (0x3250, 0x3250),
    (0x3260, 0x327F),
    (0x328A, 0x32B0),
    (0x32C0, 0x32FE),
    (0x3300, 0x33FF),
    (0x4DC0, 0x4DFF),
    (0xA490, 0xA4C6),
    (0xA828, 0xA82B),
    (0xA836, 0xA837),
    (0xA839, 0xA839),
    (0xAA77, 0xAA79),
    (0xFDFD, 0xFDFD),
    (0xFFE4, 0xFFE4),
    (0xFFE8, 0xFFE8),
    (0xFFED, 0xFFEE),
    (0xFFFC, 0xFFFD),
    (0x10137, 0x1013F),
    (0x10179, 0x10189),
    (0x1018C, 0x1018E),
    (0x10190, 0x1019B),
    (0x101A0, 0x101A0),
    (0x101D0, 0x101FC),
    (0x10877, 0x10878),
    (0x10AC8, 0x10AC8),
    (0x1173F, 0x1173F),
    (0x16B3C, 0x16B3F),
    (0x16B45, 0x16B45),
    (0x1BC9C, 0x1BC9C),
    (0x1D000, 0x1D0F5),
    (0x1D100, 0x1D126),
    (0x1D129, 0x1D164),
    (0x1D16A, 0x1D16C),
    (0x1D183, 0x1D184),
    (0x1D18C, 0x1D1A9),
    (0x1D1AE, 0x1D1E8),
    (0x1D200, 0x1D241),
    (0x1D245, 0x1D245),
    (0x1D300, 0x1D356),
    (0x1D800, 0x1D9FF),
    (0x1DA37, 0x1DA3A),
    (0x1DA6D, 0x1DA74),
    (0x1DA76, 0x1DA83),
    (0x1DA85, 0x1DA86),
    (0x1ECAC, 0x1ECAC),
    (0x1F000, 0x1F02B),
    (0x1F030, 0x1F093),
    (0x1F0A0, 0x1F0AE),
    (0x1F0B1, 0x1F0BF),
    (0x1F0C1, 0x1F0CF),
    (0x1F0D1, 0x1F0F5),
    (0x1F110, 0x1F16B),
    (0x1F170, 0x1F1AC),
    (0x1F1E6, 0x1F202),
    (0x1F210, 0x1F23B),
    (0x1F240, 0x1F248),
    (0x1F250, 0x1F251),
    (0x1F260, 0x1F265),
    (0x1F300, 0x1F3FA),
    (0x1F400, 0x1F6D4),
    (0x1F6E0, 0x1F6EC),
    (0x1F6F0, 0x1F6F9),
    (0x1F700, 0x1F773),
    (0x1F780, 0x1F7D8),
    (0x1F800, 0x1F80B),
    (0x1F810, 0x1F847),
    (0x1F850, 0x1F859),
    (0x1F860, 0x1F887),
    (0x1F890, 0x1F8AD),
    (0x1F900, 0x1F90B),
    (0x1F910, 0x1F93E),
    (0x1F940, 0x1F970),
    (0x1F973, 0x1F976),
    (0x1F97A, 0x1F97A),
    (0x1F97C, 0x1F9A2),
    (0x1F9B0, 0x1F9B9),
    (0x1F9C0, 0x1F9C2),
    (0x1F9D0, 0x1F9FF),
    (0x1FA60, 0x1FA6D),
];

fn is_symbol(character: char) -> bool {
    let code = u32::from(character);
    let after = SYMBOLS.partition_point(|(first, _)| *first <= code);
    after.checked_sub(1).is_some_and(|at| code <= SYMBOLS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What spaCy 3.8's blank English makes of simplified texts.
    #[test]
    fn tokens_are_those_of_spacy() {
        let cases: &[(&str, &[&str])] = &[
            ("the quick brown fox", &["the", "quick", "brown", "fox"]),
            ("wasn t it wasnt it", &["wasn", "t", "it", "was", "nt", "it"]),
            ("cannot cant dont wont shant", &["can", "not", "ca", "nt", "do", "nt", "wo", "nt", "sha", "nt"]),
            ("im ima id ill its well were", &["i", "m", "i", "m", "a", "i", "d", "ill", "its", "well", "were"]),
            ("gonna gotta yall notve", &["gon", "na", "got", "ta", "y", "all", "not", "ve"]),
            ("doin goin em ll ol", &["doin", "goin", "em", "ll", "ol"]),
            (
                "0km 0mb 0kg 0in 0ft 0m 0th 0pm a0km x0m0m",
                &["0", "km", "0", "mb", "0", "kg", "0", "in", "0", "ft", "0", "m", "0th", "0pm", "a0", "km", "x0m0", "m"],
            ),
            ("0м 0км 0тбكم 0كم 0م", &["0", "м", "0", "км", "0", "тбكم", "0", "كم", "0", "م"]),
            ("0m² x² m²", &["0", "m²", "x²", "m²"]),
            ("0€ €0 €a a€ 0£ £", &["0", "€", "€", "0", "€", "a", "a€", "0", "£", "£"]),
            ("‘quoted ‘s ‘wasnt ‘s© s‘ ‘‘s ‘", &["‘", "quoted", "‘s", "‘", "was", "nt", "‘s", "©", "s", "‘", "‘", "‘s", "‘"]),
            ("¿que ¡hola hola¡ a·b ·", &["¿", "que", "¡", "hola", "hola", "¡", "a·b", "·"]),
            ("a→b →a a→ →", &["a→b", "→a", "a→", "→"]),
            ("foo©bar ©x x® ☺☺ a☺☺b ☺", &["foo", "©", "bar", "©", "x", "x", "®", "☺", "☺", "a", "☺", "☺", "b", "☺"]),
            (
                "a=b a<b =a a= <a a< 0=a 0=0 >",
                &["a", "=", "b", "a", "<", "b", "=", "a", "a=", "<", "a", "a", "<", "0", "=", "a", "0=0", ">"],
            ),
            ("; a; ;a a;b `c` ´d", &[";", "a", ";", ";", "a", "a;b", "`", "c", "`", "´", "d"]),
            ("§0 0§ °c 0°c 0°", &["§", "0", "0§", "°", "c", "0", "°", "c", "0", "°"]),
            ("؟ c؟ a۔b ۔ ٪0 a،b", &["؟", "c", "؟", "a۔b", "۔", "٪", "0", "a،b"]),
            ("『日本』 〔a〕 ⟦x⟧ 日本語", &["『", "日本", "』", "〔", "a", "〕", "⟦", "x", "⟧", "日本語"]),
            ("🇩🇪 a🇩🇪b 👩\u{200d}👧", &["🇩", "🇪", "a", "🇩", "🇪", "b", "👩", "\u{200d}", "👧"]),
            ("ಠ ಠ︵ಠ", &["ಠ", "ಠ︵ಠ"]),
            ("½ 0½ ½cup", &["½", "0½", "½cup"]),
            ("whosowhod whod thats thiss", &["whosowhod", "who", "d", "that", "s", "this", "s"]),
            ("0 00 a 0", &["0", "00", "a", "0"]),
            ("wasnt© ©wasnt ©wasnt©", &["was", "nt", "©", "©", "was", "nt", "©", "was", "nt", "©"]),
            ("0km© ‘0km", &["0", "km", "©", "‘", "0", "km"]),
            ("ﷺ ﷼0 0﷼ ﷼", &["ﷺ", "﷼", "0", "0", "﷼", "﷼"]),
            ("naïve été", &["naïve", "été"]),
        ];
        let english = English::new();
        for (text, wanted) in cases {
            let mut found = Vec::new();
            english.tokens(text, |token| found.push(token.to_owned()));
            assert_eq!(found, *wanted, "{text}");
        }
    }

    #[test]
    fn symbols_are_sorted() {
        assert!(SYMBOLS.iter().all(|(first, last)| first <= last));
        assert!(SYMBOLS.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
