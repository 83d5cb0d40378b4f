//! Opcodes that push a number or a text.

use std::rc::Rc;

use super::{machine::Machine, opcode as op, value::Value};
use crate::error::Result;

/// Maximum length of a line of protocol 0.
const LONGEST_LINE: usize = 1 << 16;

impl Machine<'_> {
    /// Runs an opcode that pushes a number or a text.
    pub(super) fn scalar(&mut self, code: u8) -> Result<Value> {
        Ok(match code {
            op::NONE => Value::None,
            op::NEWTRUE => Value::Bool(true),
            op::NEWFALSE => Value::Bool(false),
            op::BININT => Value::Int(i64::from(i32::from_le_bytes(self.input.array()?))),
            op::BININT1 => Value::Int(i64::from(u8::from_le_bytes(self.input.array()?))),
            op::BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.input.array()?))),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(self.input.array()?)),
            op::INT => match self.line()?.as_str() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                line => Value::Int(line.trim().parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?),
            },
            op::LONG => {
                let line = self.line()?;
                let digits = line.trim_end_matches('L');
                Value::Int(digits.parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?)
            }
            op::FLOAT => {
                let line = self.line()?;
                Value::Float(line.parse().map_err(|_| self.wrong(format!("{line:?} is not a number")))?)
            }
            op::LONG1 | op::LONG4 => {
                let bytes = if code == op::LONG1 { self.counted(1)? } else { self.counted(4)? };
                long(&bytes)
            }
            op::UNICODE | op::STRING => {
                let line = self.line()?;
                Value::Text(line.trim_matches(['\'', '"']).into())
            }
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => self.text(1)?,
            op::BINUNICODE | op::BINSTRING => self.text(4)?,
            op::BINUNICODE8 => self.text(8)?,
            op::SHORT_BINBYTES => Value::Bytes(self.counted(1)?.into()),
            op::BINBYTES => Value::Bytes(self.counted(4)?.into()),
            op::BINBYTES8 | op::BYTEARRAY8 => Value::Bytes(self.counted(8)?.into()),
            _ => return Err(self.wrong(format!("the opcode {code:#04x} is not supported"))),
        })
    }

    /// Reads bytes after their number, which has `width` bytes.
    fn counted(&mut self, width: u8) -> Result<Vec<u8>> {
        let count = match width {
            1 => u64::from(u8::from_le_bytes(self.input.array()?)),
            4 => u64::from(u32::from_le_bytes(self.input.array()?)),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        self.input.bytes(count)
    }

    fn text(&mut self, width: u8) -> Result<Value> {
        let bytes = self.counted(width)?;
        let text = String::from_utf8(bytes).map_err(|_| self.wrong("a text is not UTF-8"))?;
        Ok(Value::Text(text.into()))
    }

    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.input.array()? {
                [b'\n'] => break,
                [byte] if line.len() < LONGEST_LINE => line.push(byte),
                _ => return Err(self.wrong("a line is too long")),
            }
        }
        String::from_utf8(line).map_err(|_| self.wrong("a line is not UTF-8"))
    }
}

/// Returns an integer from its bytes, little-endian in two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(Rc::from(bytes));
    }
    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut wide = [sign; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
