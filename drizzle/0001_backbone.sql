CREATE TABLE `alert_rules` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`device_pk` integer NOT NULL,
	`sensor_pk` integer NOT NULL,
	`condition` text NOT NULL,
	`threshold` real,
	`threshold_high` real,
	`for_ms` integer NOT NULL,
	`clear` real,
	`cooldown_ms` integer NOT NULL,
	`severity` text NOT NULL,
	`is_enabled` integer NOT NULL,
	`pending_since` integer,
	`last_fired_at` integer,
	`last_value_at` integer,
	`last_value` real,
	`last_arrival_at` integer,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`device_pk`) REFERENCES `devices`(`pk`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`sensor_pk`) REFERENCES `sensors`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `alert_rules_id_unique` ON `alert_rules` (`id`);--> statement-breakpoint
CREATE INDEX `alert_rules_sensor` ON `alert_rules` (`sensor_pk`);--> statement-breakpoint
CREATE INDEX `alert_rules_device` ON `alert_rules` (`device_pk`);--> statement-breakpoint
CREATE TABLE `alerts` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`rule_pk` integer NOT NULL,
	`device_pk` integer NOT NULL,
	`value` real,
	`triggered_at` integer NOT NULL,
	`resolved_at` integer,
	FOREIGN KEY (`rule_pk`) REFERENCES `alert_rules`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `alerts_id_unique` ON `alerts` (`id`);--> statement-breakpoint
CREATE INDEX `alerts_rule` ON `alerts` (`rule_pk`,`resolved_at`);--> statement-breakpoint
CREATE INDEX `alerts_device` ON `alerts` (`device_pk`,`resolved_at`);--> statement-breakpoint
CREATE TABLE `api_keys` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`name` text NOT NULL,
	`hash` text NOT NULL,
	`created_at` integer NOT NULL,
	`last_used_at` integer,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `api_keys_user` ON `api_keys` (`user_id`);--> statement-breakpoint
CREATE TABLE `deliveries` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`webhook_pk` integer NOT NULL,
	`event` text NOT NULL,
	`body` text NOT NULL,
	`status` text NOT NULL,
	`attempts` integer DEFAULT 0 NOT NULL,
	`next_attempt_at` integer NOT NULL,
	`last_attempt_at` integer,
	`response_status` integer,
	`error` text,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`webhook_pk`) REFERENCES `webhooks`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `deliveries_due` ON `deliveries` (`status`,`next_attempt_at`);--> statement-breakpoint
CREATE INDEX `deliveries_webhook` ON `deliveries` (`webhook_pk`,`status`,`pk`);--> statement-breakpoint
CREATE TABLE `progress` (
	`name` text PRIMARY KEY NOT NULL,
	`value` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `purchases` (
	`id` text PRIMARY KEY NOT NULL,
	`product_id` text NOT NULL,
	`user_id` text NOT NULL,
	`device_pk` integer NOT NULL,
	`quantity` integer NOT NULL,
	`total_micros` integer NOT NULL,
	`currency` text NOT NULL,
	`key_hash` text NOT NULL,
	`remaining` integer,
	`expires_at` integer,
	`is_aggregated_only` integer NOT NULL,
	`idempotency_key` text,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`device_pk`) REFERENCES `devices`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `purchases_key_hash_unique` ON `purchases` (`key_hash`);--> statement-breakpoint
CREATE UNIQUE INDEX `purchases_idempotency` ON `purchases` (`user_id`,`idempotency_key`);--> statement-breakpoint
CREATE INDEX `purchases_product` ON `purchases` (`user_id`,`product_id`);--> statement-breakpoint
CREATE INDEX `purchases_device` ON `purchases` (`device_pk`);--> statement-breakpoint
CREATE TABLE `rollups` (
	`width` integer NOT NULL,
	`sensor_pk` integer NOT NULL,
	`start_at` integer NOT NULL,
	`count` integer NOT NULL,
	`sum` real NOT NULL,
	`sum_rest` blob,
	`min` real NOT NULL,
	`max` real NOT NULL,
	PRIMARY KEY(`width`, `sensor_pk`, `start_at`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `webhooks` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`url` text NOT NULL,
	`events` text NOT NULL,
	`secret` text NOT NULL,
	`is_enabled` integer DEFAULT true NOT NULL,
	`last_reading_id` integer NOT NULL,
	`last_data_at` integer DEFAULT 0 NOT NULL,
	`dropped` integer DEFAULT 0 NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `webhooks_id_unique` ON `webhooks` (`id`);--> statement-breakpoint
ALTER TABLE `devices` ADD `external_id` text;--> statement-breakpoint
ALTER TABLE `devices` ADD `type` text;--> statement-breakpoint
ALTER TABLE `devices` ADD `manufacturer` text;--> statement-breakpoint
ALTER TABLE `devices` ADD `model` text;--> statement-breakpoint
ALTER TABLE `devices` ADD `is_faulty` integer DEFAULT false NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX `devices_external_id_unique` ON `devices` (`external_id`);--> statement-breakpoint
ALTER TABLE `sensors` ADD `unit` text;