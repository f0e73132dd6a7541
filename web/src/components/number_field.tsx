import { mistakeIn } from "@/lib/jobs/fields";
import { Field } from "./ui";

export interface NumberProps {
  label: string;
  hint: string;
  byDefault: string;
  value: string;
  onChange: (value: string) => void;
  /** What the service says against it. */
  problem: string | undefined;
  /** As the contract bounds it. */
  least: number;
  most: number;
  isInteger?: boolean;
}

/** A number that may be left out. */
export function NumberField({ byDefault, onChange, problem, least, most, isInteger = true, ...rest }: NumberProps) {
  return (
    <Field
      {...rest}
      inputMode={isInteger && least >= 0 ? "numeric" : "text"}
      placeholder={byDefault}
      onChange={(event) => onChange(event.target.value)}
      problem={mistakeIn(rest.value, least, most, isInteger) ?? problem}
    />
  );
}
