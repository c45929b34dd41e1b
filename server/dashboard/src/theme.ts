// Light or dark: the system's choice, unless the reader has made one.
import { Cell } from './cell';

export type Theme = 'system' | 'light' | 'dark';
const KEY = 'tributary-theme';

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === 'light' || value === 'dark' ? value : 'system';
  } catch {
    return 'system'; // storage is forbidden
  }
}

export const theme = new Cell<Theme>('system');
// Charts are drawn on a canvas with fixed colours: they read this and draw again.
export const isDark = new Cell<boolean>(false);

function apply(): void {
  const chosen = theme.value;
  if (chosen === 'system') delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = chosen;
  isDark.set(chosen === 'dark' || (chosen === 'system' && matchMedia('(prefers-color-scheme: dark)').matches));
}

export function startTheme(): void {
  theme.set(stored());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', apply);
  apply();
}

export function chooseTheme(chosen: Theme): void {
  try {
    if (chosen === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, chosen);
  } catch {
    // holds for this visit only
  }
  theme.set(chosen);
  apply();
}
