//! SVG writer, for the curves of runs and the figures in the documents.

use std::fmt::{self, Display, Write as _};

/// An SVG document under construction. Each element is one line.
#[derive(Debug)]
pub struct Svg {
    text: String,
}

impl Svg {
    /// Creates a document of the given size in pixels, with a font size of 12 pixels.
    pub fn new(width: f64, height: f64, font: &str) -> Self {
        let mut svg = Self { text: String::new() };
        svg.element("svg")
            .attr("xmlns", "http://www.w3.org/2000/svg")
            .attr("width", width)
            .attr("height", height)
            .attr("viewBox", format_args!("0 0 {width} {height}"))
            .attr("font-family", font)
            .attr("font-size", 12)
            .attr("fill", "#333")
            .open();
        // Without a background, a viewer with a dark page shows dark text on it.
        svg.element("rect")
            .attr("width", "100%")
            .attr("height", "100%")
            .attr("fill", "#fff")
            .close();
        svg
    }

    /// Starts an element. Its attributes follow, then one of [`close`](Element::close), [`words`](Element::words) and
    /// [`open`](Element::open).
    pub fn element(&mut self, name: &'static str) -> Element<'_> {
        self.text.push('<');
        self.text.push_str(name);
        Element { svg: self, name }
    }

    /// Ends the last opened element.
    pub fn end(&mut self, name: &'static str) {
        self.write(format_args!("</{name}>\n"));
    }

    /// Returns the whole document.
    pub fn finish(mut self) -> String {
        self.end("svg");
        self.text
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// An element whose attributes are being written.
#[derive(Debug)]
pub struct Element<'a> {
    svg: &'a mut Svg,
    name: &'static str,
}

impl Element<'_> {
    /// Adds an attribute.
    pub fn attr(self, name: &str, value: impl Display) -> Self {
        let value = Escaped(&value.to_string()).to_string();
        self.svg.write(format_args!(" {name}=\"{}\"", value.replace('"', "&quot;")));
        self
    }

    /// Ends the element without content.
    pub fn close(self) {
        self.svg.text.push_str("/>\n");
    }

    /// Ends the element with any text.
    pub fn words(self, words: &str) {
        self.svg.write(format_args!(">{}</{}>\n", Escaped(words), self.name));
    }

    /// Ends the element with text and a second text in another style.
    pub fn words_and(self, words: &str, piece: &str, colour: &str) {
        let (words, piece, name) = (Escaped(words), Escaped(piece), self.name);
        self.svg.write(format_args!(
            ">{words}<tspan dx=\"6\" font-weight=\"normal\" fill=\"{colour}\">{piece}</tspan></{name}>\n"
        ));
    }

    /// Leaves the element open for child elements.
    pub fn open(self) {
        self.svg.text.push_str(">\n");
    }
}

/// XML text: special characters are escaped, and those invalid in XML are replaced.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                control if control.is_control() => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
