//! Values as the server sends them, to the core's types.

use redis::Value;
use stem_core::time::Timestamp;

use crate::fault::Fault;

/// The elements of a list.
pub(crate) fn list(value: Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(list) => Ok(list),
        other => Err(unexpected("a list", &other)),
    }
}

/// Bytes; nothing at all is read as none.
pub(crate) fn bytes(value: Value) -> Result<Option<Vec<u8>>, Fault> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Nil | Value::Boolean(false) => Ok(None),
        Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        other => Err(unexpected("bytes", &other)),
    }
}

/// Text that is there.
pub(crate) fn text(value: Value) -> Result<String, Fault> {
    let bytes = bytes(value)?.ok_or_else(|| Fault::corrupt("text is missing"))?;
    String::from_utf8(bytes).map_err(|_| Fault::corrupt("text is not UTF-8"))
}

/// A number, sent as one or as text.
pub(crate) fn int(value: Value) -> Result<i64, Fault> {
    match value {
        Value::Int(number) => Ok(number),
        other => text(other)?.parse().map_err(|_| Fault::corrupt("a number is not one")),
    }
}

pub(crate) fn small(value: Value) -> Result<u32, Fault> {
    Ok(u32::try_from(int(value)?.max(0)).unwrap_or(u32::MAX))
}

pub(crate) fn large(value: Value) -> Result<u64, Fault> {
    Ok(u64::try_from(int(value)?).unwrap_or(0))
}

pub(crate) fn time(value: Value) -> Result<Timestamp, Fault> {
    Ok(Timestamp::from_unix_millis(int(value)?))
}

/// Takes the elements of a list one after the other.
pub(crate) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self, Fault> {
        Ok(Self(list(value)?.into_iter()))
    }

    pub(crate) fn next(&mut self) -> Result<Value, Fault> {
        self.0.next().ok_or_else(|| Fault::corrupt("an answer is too short"))
    }

    pub(crate) fn rest(self) -> impl Iterator<Item = Value> {
        self.0
    }
}

fn unexpected(wanted: &str, got: &Value) -> Fault {
    let kind = match got {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    Fault::corrupt(format!("{wanted} was expected and {kind} came"))
}
