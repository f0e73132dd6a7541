-- What decoding tells of a clip beyond its length and size. What was decoded before is decoded again when it is next validated.
ALTER TABLE clip_probes
    ADD COLUMN decoder                text NOT NULL DEFAULT 'pyav',
    ADD COLUMN is_variable_frame_rate boolean NOT NULL DEFAULT false,
    ADD COLUMN rotation               smallint NOT NULL DEFAULT 0,
    ADD COLUMN has_audio              boolean NOT NULL DEFAULT false,
    -- 64 bits, as a signed number; NULL: decoded before there were hashes.
    ADD COLUMN perceptual_hash        bigint,
    ADD COLUMN is_browser_playable    boolean NOT NULL DEFAULT true,
    ADD COLUMN has_poster             boolean NOT NULL DEFAULT false,
    ADD COLUMN has_proxy              boolean NOT NULL DEFAULT false;
