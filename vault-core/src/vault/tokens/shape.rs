//! What a value token looks like: plainly a token, or in the shape of the value it stands for, and then never a valid one.

use zeroize::Zeroizing;

use crate::crypto::Random;
use crate::schema::{FieldKind, card_number_checks};
use crate::words::word_enum;

/// What every token begins with that is not shaped.
const PREFIX: &str = "udt_";
/// RFC 4648 §6, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

word_enum! {
    /// How a value token looks. It is drawn at random in any shape, and has nothing to do with the value.
    ///
    /// A shaped token has less room to be random in: some 40 bits for a phone number, 50 for a card number (128 for
    /// `random` and `email`). Who may resolve tokens could find one by trying many, so that a bound on misses matters for
    /// them, and a binding to a caller or a purpose.
    TokenShape {
        /// `udt_` and 32 hexadecimal digits. For any field.
        Random = "random",
        /// `+999` and 12 digits: a country code that nobody has. For phone numbers.
        Phone = "phone",
        /// 16 digits from 9 on that fail the check of their last digit (ISO/IEC 7812-1, Luhn). For card numbers.
        Card = "card",
        /// 26 letters and digits at `token.invalid`, where no mail goes (RFC 2606 §2). For e-mail addresses.
        Email = "email",
    }
}

impl TokenShape {
    /// Whether a field of this kind may have tokens of this shape.
    pub(super) fn fits(self, kind: &FieldKind) -> bool {
        match self {
            Self::Random => true,
            Self::Phone => *kind == FieldKind::Phone,
            Self::Card => *kind == FieldKind::Card,
            Self::Email => *kind == FieldKind::Email,
        }
    }

    /// Whether a text, if it is a token at all, is of a shape with so little room that somebody could find it by trying.
    pub fn is_guessable(token: &str) -> bool {
        token.starts_with(['+', '9'])
    }

    /// A token of this shape.
    pub(super) fn draw(self, random: &mut Random) -> Zeroizing<String> {
        let mut token = Zeroizing::new(String::with_capacity(48));
        match self {
            Self::Random => {
                let digits = Zeroizing::new(hex::encode(random.array::<16>()));
                token.push_str(PREFIX);
                token.push_str(&digits);
            }
            Self::Phone => {
                token.push_str("+999");
                (0..12).for_each(|_| token.push(char::from(b'0' + digit(random))));
            }
            Self::Card => card(random, &mut token),
            Self::Email => {
                let letters = Zeroizing::new(random.array::<26>());
                token.extend(letters.iter().map(|byte| char::from(BASE32[usize::from(byte & 31)])));
                token.push_str("@token.invalid");
            }
        }
        token
    }
}

/// A digit, each as likely as the others: bytes that would favour some are passed over.
fn digit(random: &mut Random) -> u8 {
    loop {
        let [byte] = random.array();
        if byte < 250 {
            return byte % 10;
        }
    }
}

fn card(random: &mut Random, token: &mut String) {
    token.push('9');
    (1..16).for_each(|_| token.push(char::from(b'0' + digit(random))));
    while card_number_checks(token) {
        token.pop();
        token.push(char::from(b'0' + digit(random)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::FieldName;
    use crate::schema::Schema;
    use std::collections::BTreeSet;

    const MANY: usize = 10_000;

    fn drawn(shape: TokenShape) -> Vec<String> {
        let mut random = Random::new(MANY * 32);
        (0..MANY).map(|_| shape.draw(&mut random).to_string()).collect()
    }

    #[test]
    fn a_shaped_token_is_never_a_valid_value() {
        let schema = Schema::builtin();
        let phone = schema.field(&FieldName::parse("phone").unwrap()).unwrap();
        assert!(phone.parse(r#""+971501238301""#).is_ok(), "the control: the parser takes a number");
        for token in drawn(TokenShape::Phone) {
            assert!(token.len() == 16 && token.starts_with("+999"), "{token}");
            assert!(token[1..].bytes().all(|b| b.is_ascii_digit()), "{token}");
            assert!(phone.parse(&format!("\"{token}\"")).is_err(), "{token}");
        }
        for token in drawn(TokenShape::Card) {
            assert!(token.len() == 16 && token.starts_with('9'), "{token}");
            assert!(!card_number_checks(&token), "{token}");
        }
        let guessable = |shape| drawn(shape).iter().filter(|token| TokenShape::is_guessable(token)).count();
        assert_eq!([TokenShape::Phone, TokenShape::Card].map(guessable), [MANY; 2]);
        assert_eq!([TokenShape::Random, TokenShape::Email].map(guessable), [0; 2]);
        for token in drawn(TokenShape::Email) {
            let (name, domain) = token.split_once('@').unwrap();
            assert_eq!((name.len(), domain), (26, "token.invalid"));
            assert!(name.bytes().all(|b| BASE32.contains(&b)), "{token}");
        }
    }

    #[test]
    fn tokens_differ_and_use_all_their_room() {
        for &shape in TokenShape::ALL {
            let tokens = drawn(shape);
            assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), MANY, "{shape:?}");
            let last: BTreeSet<char> = tokens.iter().map(|t| t.chars().nth(15).unwrap()).collect();
            let alphabet = match shape {
                TokenShape::Random => 16,
                TokenShape::Phone | TokenShape::Card => 10,
                TokenShape::Email => 32,
            };
            assert_eq!(last.len(), alphabet, "{shape:?}");
        }
        assert!(drawn(TokenShape::Random)[0].starts_with("udt_"));
        assert_eq!(drawn(TokenShape::Random)[0].len(), 36);
    }

    #[test]
    fn shapes_fit_their_kinds() {
        let kinds = [FieldKind::Phone, FieldKind::Card, FieldKind::Email, FieldKind::Name];
        let shapes = [TokenShape::Phone, TokenShape::Card, TokenShape::Email];
        for (at, kind) in kinds.iter().enumerate() {
            assert!(TokenShape::Random.fits(kind));
            for (of, shape) in shapes.iter().enumerate() {
                assert_eq!(shape.fits(kind), at == of, "{shape:?} {kind:?}");
            }
        }
        assert!(card_number_checks("4111111111111111") && !card_number_checks("4111111111111112"), "the control");
    }
}
