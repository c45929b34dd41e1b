// Server-Sent Events, read from a byte stream (https://html.spec.whatwg.org/multipage/server-sent-events.html).
// The browser's EventSource shows neither comments nor HTTP status: with it, a silent line looks like a quiet one, and a
// session that has ended looks like a server that is down.

export interface ServerEvent {
  type: string;
  data: string;
  id: string;
}

export class EventParser {
  #rest = '';
  #type = '';
  #data: string[] = [];
  #id = '';
  #sawCarriageReturn = false;

  constructor(private readonly emit: (event: ServerEvent) => void) {}

  // Text as it came off the wire, cut anywhere.
  push(text: string): void {
    if (this.#sawCarriageReturn && text.startsWith('\n')) text = text.slice(1);
    this.#sawCarriageReturn = text.endsWith('\r');
    let start = 0;
    for (let i = 0; i < text.length; ++i) {
      const code = text.charCodeAt(i);
      if (code !== 10 && code !== 13) continue;
      this.#line(this.#rest + text.slice(start, i));
      this.#rest = '';
      if (code === 13 && text.charCodeAt(i + 1) === 10) ++i;
      start = i + 1;
    }
    this.#rest += text.slice(start);
  }

  #line(line: string): void {
    if (line === '') {
      if (this.#data.length > 0)
        this.emit({ type: this.#type || 'message', data: this.#data.join('\n'), id: this.#id });
      this.#type = '';
      this.#data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'event') this.#type = value;
    else if (field === 'data') this.#data.push(value);
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
  }
}
