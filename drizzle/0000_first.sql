CREATE TABLE `actors` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`device_pk` integer NOT NULL,
	`name` text NOT NULL,
	`type` text NOT NULL,
	`data_type_id` integer NOT NULL,
	`active` integer DEFAULT true NOT NULL,
	`edited_fields` text DEFAULT '[]' NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`device_pk`) REFERENCES `devices`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `actors_id_unique` ON `actors` (`id`);--> statement-breakpoint
CREATE INDEX `actors_device` ON `actors` (`device_pk`);--> statement-breakpoint
CREATE TABLE `data_types` (
	`id` integer PRIMARY KEY NOT NULL,
	`name` text NOT NULL
);
--> statement-breakpoint
CREATE TABLE `devices` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`name` text NOT NULL,
	`description` text NOT NULL,
	`location` text NOT NULL,
	`status_id` integer NOT NULL,
	`mac` text,
	`edited_fields` text DEFAULT '[]' NOT NULL,
	`last_seen_at` integer,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `devices_id_unique` ON `devices` (`id`);--> statement-breakpoint
CREATE TABLE `purges` (
	`sensor_pk` integer PRIMARY KEY NOT NULL
);
--> statement-breakpoint
CREATE TABLE `readings` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`sensor_pk` integer NOT NULL,
	`value_at` integer NOT NULL,
	`value` real NOT NULL
);
--> statement-breakpoint
CREATE INDEX `readings_sensor_time` ON `readings` (`sensor_pk`,`value_at`);--> statement-breakpoint
CREATE TABLE `resends` (
	`seq` integer PRIMARY KEY NOT NULL,
	`fingerprint` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `sensors` (
	`pk` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL,
	`device_pk` integer NOT NULL,
	`name` text NOT NULL,
	`type` text NOT NULL,
	`data_type_id` integer NOT NULL,
	`active` integer DEFAULT true NOT NULL,
	`edited_fields` text DEFAULT '[]' NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`device_pk`) REFERENCES `devices`(`pk`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `sensors_id_unique` ON `sensors` (`id`);--> statement-breakpoint
CREATE INDEX `sensors_device` ON `sensors` (`device_pk`);--> statement-breakpoint
CREATE TABLE `users` (
	`id` text PRIMARY KEY NOT NULL,
	`username` text NOT NULL,
	`username_key` text NOT NULL,
	`email` text,
	`email_key` text,
	`password_hash` text NOT NULL,
	`role` text NOT NULL,
	`token_version` integer DEFAULT 0 NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `users_username_key_unique` ON `users` (`username_key`);--> statement-breakpoint
CREATE UNIQUE INDEX `users_email_key_unique` ON `users` (`email_key`);
--> statement-breakpoint
INSERT INTO `data_types` (`id`, `name`) VALUES (1, 'boolean'), (2, 'number');
