//! How a rider means to pay.

use serde::{Deserialize, Deserializer, Serialize};

/// How a rider pays. A bare name is read as well: `"cash"` is `{"type": "cash"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PaymentMethod {
    #[serde(rename = "type")]
    pub kind: MethodType,
    /// The payment service's name for the card; never a card number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub token: Option<String>,
}

/// What money comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MethodType {
    /// A card, known to the payment service.
    Card,
    /// From hand to hand.
    Cash,
    /// What the rider has with the company.
    Wallet,
}

const MAX_TOKEN_LENGTH: usize = 200;

impl<'de> Deserialize<'de> for PaymentMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(rename = "type")]
            kind: MethodType,
            #[serde(default)]
            token: Option<String>,
        }

        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = PaymentMethod;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(r#"{"type": "card" | "cash" | "wallet", "token"?}"#)
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<PaymentMethod, E> {
                let kind = MethodType::deserialize(serde::de::value::StrDeserializer::new(name))?;
                Ok(PaymentMethod { kind, token: None })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<PaymentMethod, A::Error> {
                let Whole { kind, token } = Whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                if token.as_ref().is_some_and(|token| token.len() > MAX_TOKEN_LENGTH) {
                    return Err(serde::de::Error::custom("a payment token has at most 200 bytes"));
                }
                if kind == MethodType::Wallet && token.is_some() {
                    return Err(serde::de::Error::custom(
                        "the wallet is the rider's with the company and has no token; pay by card",
                    ));
                }
                Ok(PaymentMethod { kind, token })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_read_whole_or_by_name() {
        let read = serde_json::from_str::<PaymentMethod>;
        let card = PaymentMethod { kind: MethodType::Card, token: Some("tok_visa".into()) };
        assert_eq!(read(r#"{"type":"card","token":"tok_visa"}"#).unwrap(), card);
        assert_eq!(read(r#""cash""#).unwrap(), PaymentMethod { kind: MethodType::Cash, token: None });
        assert_eq!(read(r#"{"type":"wallet"}"#).unwrap(), PaymentMethod { kind: MethodType::Wallet, token: None });
        assert_eq!(serde_json::to_string(&card).unwrap(), r#"{"type":"card","token":"tok_visa"}"#);
        for bad in [
            r#""gold""#,
            r#"{"type":"gold"}"#,
            r#"{"type":"wallet","token":"tok_visa"}"#,
            "{}",
            "7",
            &format!(r#"{{"type":"card","token":"{}"}}"#, "x".repeat(201)),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
