// Light or dark: as the system says, until somebody chooses.
export type Theme = "light" | "dark";

const KEY = "reeltune.theme";

/** Runs before the first paint, as text: the page must not flash in the other theme. */
export const THEME_SCRIPT = `(function(){var t=null;try{t=localStorage.getItem("${KEY}")}catch(e){}if(t?t==="dark":matchMedia("(prefers-color-scheme: dark)").matches)document.documentElement.classList.add("dark")})()`;

export function currentTheme(): Theme {
  return document.documentElement.classList.contains("dark") ? "dark" : "light";
}

export function chooseTheme(theme: Theme): void {
  document.documentElement.classList.toggle("dark", theme === "dark");
  localStorage.setItem(KEY, theme);
}
