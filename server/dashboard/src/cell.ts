// A value that tells its readers when it changes: all the state management that this page needs.
import { useEffect, useState } from 'preact/hooks';

export class Cell<T> {
  #value: T;
  readonly #readers = new Set<() => void>();

  constructor(value: T) {
    this.#value = value;
  }

  get value(): T {
    return this.#value;
  }

  set(value: T): void {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const reader of [...this.#readers]) reader();
  }

  subscribe(reader: () => void): () => void {
    this.#readers.add(reader);
    return () => this.#readers.delete(reader);
  }

  get readers(): number {
    return this.#readers.size;
  }
}

export function useCell<T>(cell: Cell<T>): T {
  const [, rerender] = useState({});
  useEffect(() => {
    let seen = cell.value;
    const check = () => {
      if (Object.is(seen, cell.value)) return;
      seen = cell.value;
      rerender({});
    };
    rerender({}); // it may have changed between the first render and this effect
    return cell.subscribe(check);
  }, [cell]);
  return cell.value;
}
