import type { NextConfig } from "next";

// Everything lives under /app: the edge's other paths, such as /datasets, are those of the HTTP/JSON API.
const config: NextConfig = {
  output: "export",
  basePath: "/app",
  reactStrictMode: true,
  poweredByHeader: false,
  images: { unoptimized: true },
  // `npm run check` does it, and by the same compiler.
  typescript: { ignoreBuildErrors: true },
  turbopack: { root: import.meta.dirname },
};

export default config;
