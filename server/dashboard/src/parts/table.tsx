// A table that turns into a list of records on a phone. It shows its first rows and offers the rest: a thousand rows
// that nobody reads cost nothing, and find-in-page, screen readers and paper work as on any table.
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { plural } from '../format';

export interface Column<T> {
  title: string;
  cell: (row: T) => ComponentChildren;
  numeric?: boolean;
  wide?: boolean; // takes what is left
  header?: boolean; // names the row
}

interface TableProps<T> {
  caption: string;
  hideCaption?: boolean;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T) => string;
  rowClass?: (row: T) => string;
  first?: number; // rows shown at once
  noun?: [string, string];
}

export function Table<T>(props: TableProps<T>) {
  const step = props.first ?? 100;
  const [shown, setShown] = useState(step);
  const rows = props.rows.length > shown ? props.rows.slice(0, shown) : props.rows;
  const hidden = props.rows.length - rows.length;
  const [one, many] = props.noun ?? ['row', 'rows'];
  return (
    <div class="table">
      <table role="table">
        <caption class={props.hideCaption ? 'spoken' : ''}>{props.caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {props.columns.map((column) => (
              <th key={column.title} role="columnheader" scope="col" class={classOf(column)}>
                {column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => (
            <tr key={props.rowKey(row)} role="row" class={props.rowClass?.(row) ?? ''}>
              {props.columns.map((column) =>
                column.header ? (
                  <th key={column.title} role="rowheader" scope="row" class={classOf(column)}>
                    {column.cell(row)}
                  </th>
                ) : (
                  <td key={column.title} role="cell" class={classOf(column)} data-title={column.title}>
                    {column.cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
      {hidden > 0 && (
        <p class="more">
          <button type="button" onClick={() => setShown(shown + Math.max(step, 200))}>
            Show more
          </button>{' '}
          {plural(hidden, one, many)} not shown
        </p>
      )}
    </div>
  );
}

function classOf<T>(column: Column<T>): string {
  return [column.numeric ? 'numeric' : '', column.wide ? 'wide' : ''].join(' ').trim();
}
