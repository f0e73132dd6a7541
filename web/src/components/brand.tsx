export function Brand() {
  return (
    <span className="inline-flex items-center gap-2 font-semibold tracking-tight">
      <svg
        aria-hidden
        viewBox="0 0 24 24"
        className="size-6 text-accent"
        fill="none"
        stroke="currentColor"
        strokeWidth="1.8"
      >
        <circle cx="12" cy="12" r="9.2" />
        <circle cx="12" cy="6.9" r="1.7" />
        <circle cx="7.1" cy="14.6" r="1.7" />
        <circle cx="16.9" cy="14.6" r="1.7" />
        <circle cx="12" cy="12" r="0.9" fill="currentColor" />
      </svg>
      Reeltune
    </span>
  );
}
