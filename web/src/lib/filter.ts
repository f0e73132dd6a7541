// Conditions of lists, as the services read them.

/** Returns the condition that a field has this part somewhere; nothing where there is none. */
export function hasPart(field: string, part: string): string {
  const text = part.trim().replaceAll(/["\\]/g, "\\$&");
  return text ? `${field} : "${text}"` : "";
}
